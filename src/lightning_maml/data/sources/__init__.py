"""Where samples come from: folders of images or texts, printed characters, and torchmeta's datasets."""

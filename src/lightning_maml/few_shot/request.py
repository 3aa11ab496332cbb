"""The settings of src/adapt.py, checked before anything is read."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lightning_maml.errors import SettingError

Text = Annotated[str, Field(min_length=1)]


class Request(BaseModel):
    """What to adapt, and to which images; conf/adapt.yaml says what each setting means, here is what it may be."""

    model_config = ConfigDict(strict=True, frozen=True)

    ckpt: Text = Field(description="give the file of a checkpoint")
    support: Text = Field(description="give a folder whose sub-folders are the classes")
    query: Text | list[Text | int] = Field(description="give an image, a list of images, or a folder")
    steps: Annotated[int, Field(ge=0)] | None = Field(description="give a whole number of at least 0, or null")
    device: Text = Field(description="give auto, cpu, cuda, cuda:1, …")
    transductive: bool = Field(description="give true or false")
    invert: bool | Literal["auto"] = Field(description="give true, false or auto")
    onnx: bool = Field(description="give true or false")
    trusted: list[Text] = Field(description="give a list of modules, [mine], or []")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Request":
        """Return the settings as they were composed, checked.

        Raises:
            SettingError: for the first that is missing, or of another kind.
        """
        for name, value in settings.items():
            if value == "???":
                raise SettingError(name, "", "this must be given; conf/adapt.yaml says what it is")
        try:
            request = cls.model_validate(settings)
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            raise SettingError(name, settings.get(name), str(cls.model_fields[name].description)) from error
        if request.onnx and request.transductive:
            raise SettingError("onnx", True, "it needs a classifier of single images; leave transductive out")
        return request

    @property
    def queries(self) -> list[str]:
        """The images and folders to classify."""
        return [str(one) for one in self.query] if isinstance(self.query, list) else [self.query]

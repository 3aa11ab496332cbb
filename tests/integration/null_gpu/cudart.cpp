// A CUDA runtime without a GPU: allocations and copies are the host's, kernels do nothing, waits are counted.
// Calls that hand nothing back are generated beside it (stub.py).
#include <cstdlib>
#include <cstring>

#include <cuda_runtime_api.h>

static const size_t MEMORY = 80ull << 30;

static cudaError_t allocate(void** pointer, size_t bytes) {
    size_t rounded = (bytes + 511) & ~size_t(511);
    *pointer = aligned_alloc(512, rounded);
    if (*pointer == nullptr) return cudaErrorMemoryAllocation;
    memset(*pointer, 0, rounded);
    return cudaSuccess;
}

extern "C" {
long null_gpu_waits = 0;

cudaError_t cudaGetDeviceCount(int* count) { *count = 1; return cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    memset(properties, 0, sizeof *properties);
    strcpy(properties->name, "null GPU");
    properties->major = 9;
    properties->multiProcessorCount = 132;
    properties->totalGlobalMem = MEMORY;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsPerMultiProcessor = 2048;
    properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
    properties->maxThreadsDim[2] = 64;
    properties->maxGridSize[0] = 2147483647;
    properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
    properties->regsPerBlock = 65536;
    properties->sharedMemPerBlock = 49152;
    properties->sharedMemPerBlockOptin = 232448;
    properties->l2CacheSize = 52428800;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { *value = 0; return cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { *can = 0; return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* most) { *least = 0; *most = -5; return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { *free = *total = MEMORY; return cudaSuccess; }

cudaError_t cudaMalloc(void** pointer, size_t bytes) { return allocate(pointer, bytes); }
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) { return allocate(pointer, bytes); }
cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return allocate(pointer, bytes); }
cudaError_t cudaFree(void* pointer) { free(pointer); return cudaSuccess; }
cudaError_t cudaFreeHost(void* pointer) { free(pointer); return cudaSuccess; }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
    memset(attributes, 0, sizeof *attributes);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
    null_gpu_waits++;
    memmove(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    memmove(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) { memset(to, value, bytes); return cudaSuccess; }
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) { memset(to, value, bytes); return cudaSuccess; }

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) { return allocate((void**)stream, 8); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return allocate((void**)stream, 8); }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { null_gpu_waits++; return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { null_gpu_waits++; return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { null_gpu_waits++; return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t* event) { return allocate((void**)event, 8); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return allocate((void**)event, 8); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) { *milliseconds = 1; return cudaSuccess; }

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
    *blocks = 2;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
    *blocks = 2;
    return cudaSuccess;
}

static int nothing() { return 0; }
cudaError_t cudaGetDriverEntryPointByVersion(
    const char*, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* result) {
    *function = (void*)nothing;
    if (result != nullptr) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}

// cuBLAS and cuSOLVER: handles, and sizes of workspaces.
int cublasCreate_v2(void** handle) { return allocate(handle, 8); }
int cublasGetMathMode(void*, int* mode) { *mode = 0; return 0; }
int cusolverDnCreate(void** handle) { return allocate(handle, 8); }
int cusolverDnSgetrf_bufferSize(void*, int, int, float*, int, int* size) { *size = 1; return 0; }
int cusolverDnDgetrf_bufferSize(void*, int, int, double*, int, int* size) { *size = 1; return 0; }
}

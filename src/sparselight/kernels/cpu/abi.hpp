// What the shared library exports. Plain C: no header of PyTorch or Python is needed, so one build serves every version of them.
// Matrices are row-major float32; `latents` is int32, offsets are int64. A non-zero result means that memory ran out.
#pragma once
#include <cstdint>

#define SL_EXPORT extern "C" __attribute__((visibility("default")))

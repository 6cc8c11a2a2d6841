// What this processor can do, and the thread runtime that the loader found.
#include "abi.hpp"
#include "tiles.hpp"

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sl {

Runtime runtime = nullptr;

// Of the sources that this was built from (build.py).
SL_EXPORT const char* sl_fingerprint() { return SL_FINGERPRINT; }

SL_EXPORT void sl_set_runtime(void* gomp_parallel) { runtime = reinterpret_cast<Runtime>(gomp_parallel); }

// Formats that this build can screen in, one bit each.
SL_EXPORT int sl_formats() {
    int formats = 0;
    for (const Format format : {FP32, BF16, INT8}) with_format(format, [&](auto) { formats |= 1 << format; });
    return formats;
}

#if defined(__linux__) && defined(__x86_64__)
namespace {
// The kernel hands out the tile registers only to a process that asks.
bool may_use_tiles() {
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}
bool has_tiles() {
    unsigned a, b, c, d = 0;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    return (d >> 22 & 1) && (d >> 24 & 1);  // AMX-BF16, AMX-TILE
}
}  // namespace
#endif

// Whether a build for this instruction set can run here; asked of the generic build.
SL_EXPORT int sl_supports(const char* isa) {
    const auto is = [&](const char* name) { return std::strcmp(isa, name) == 0; };
    if (is("generic")) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq");
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni"), bf16 = vnni && __builtin_cpu_supports("avx512bf16");
    if (is("avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (is("avx512")) return avx512;
    if (is("avx512_vnni")) return vnni;
    if (is("avx512_bf16")) return bf16;
#if defined(__linux__)
    if (is("amx")) return bf16 && has_tiles() && may_use_tiles();
#endif
#endif
    return 0;
}

}  // namespace sl

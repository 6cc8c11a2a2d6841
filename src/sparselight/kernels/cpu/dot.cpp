#include "vec.hpp"

namespace sl {

__attribute__((noinline)) float dot(const float* a, const float* b, int64_t d) {
    Vec s0{}, s1{}, s2{}, s3{};
    int64_t i = 0;
    for (; i + 4 * LANES <= d; i += 4 * LANES) {
        s0 += load(a + i) * load(b + i);
        s1 += load(a + i + LANES) * load(b + i + LANES);
        s2 += load(a + i + 2 * LANES) * load(b + i + 2 * LANES);
        s3 += load(a + i + 3 * LANES) * load(b + i + 3 * LANES);
    }
    for (; i + LANES <= d; i += LANES) s0 += load(a + i) * load(b + i);
    if (i < d) s1 += load_first(a + i, d - i) * load_first(b + i, d - i);
    return sum((s0 + s1) + (s2 + s3));
}

}  // namespace sl

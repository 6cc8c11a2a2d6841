// Rows of a mapped file to float32, each checked and written to its own place: one pass over memory that is mostly not in the caches.
// And which rows: elements of an order that is computed (store/permutation.py has the reasons and the slow twin).
#include <bit>
#include <utility>

#include "abi.hpp"
#include "threads.hpp"
#include "vec.hpp"

namespace sl {
namespace {

constexpr int64_t ROWS_AHEAD = 12;  // asked for before they are needed

template <class Word>
uint32_t sum_words(const uint8_t* bytes, int64_t n) {
    uint32_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        Word word;
        std::memcpy(&word, bytes + i * sizeof(Word), sizeof(Word));
        total += word;
    }
    return total;
}

uint32_t sum_of(const uint8_t* row, int64_t n_bytes) {
    return n_bytes % 4 == 0 ? sum_words<uint32_t>(row, n_bytes / 4) : n_bytes % 2 == 0 ? sum_words<uint16_t>(row, n_bytes / 2) : sum_words<uint8_t>(row, n_bytes);
}

void from_bf16(const uint8_t* row, int64_t d, float* out) {
    for (int64_t i = 0; i < d; i++) {
        uint16_t half;
        std::memcpy(&half, row + 2 * i, 2);
        const uint32_t bits = uint32_t(half) << 16;
        std::memcpy(out + i, &bits, 4);
    }
}

void from_int8(const uint8_t* row, int64_t d, float scale, float* out) {
    for (int64_t i = 0; i < d; i++) out[i] = float(int8_t(row[i])) * scale;
}

}  // namespace

struct Permute {
    const uint64_t* keys;  // one a round, an even number of them
    int64_t* values;       // positions in, elements out
    int64_t count, n;      // how many, and of how many things
    int32_t n_rounds, width_left, width_right;  // bits of the two halves before the first round
};

namespace {

uint64_t mix(uint64_t value) {  // the finalizer of SplitMix64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ull;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBull;
    return value ^ (value >> 31);
}

uint64_t encrypt(const Permute& a, uint64_t value) {
    int32_t width_left = a.width_left, width_right = a.width_right;
    uint64_t left = value >> width_right, right = value & ((1ull << width_right) - 1);
    for (int32_t round = 0; round < a.n_rounds; round++) {
        const uint64_t mixed = (mix(right + a.keys[round]) & ((1ull << width_left) - 1)) ^ left;
        left = right;
        right = mixed;
        std::swap(width_left, width_right);
    }
    return (left << width_right) | right;
}

}  // namespace

SL_EXPORT void sl_permute(const Permute* a) {
    const uint64_t n = uint64_t(a->n);
    for (int64_t i = 0; i < a->count; i++) {
        uint64_t value = encrypt(*a, uint64_t(a->values[i]));
        while (value >= n) value = encrypt(*a, value);  // under half of the domain lies outside
        a->values[i] = int64_t(value);
    }
}

struct TakeRows {
    const uint8_t* values;  // [row] of row_bytes each
    const uint32_t* sums;   // [row]; or null, then nothing is checked
    const float* scale;     // [row] of int8; or null
    const int64_t* rows;    // which, ascending
    float* const* targets;  // where each of them goes
    int64_t n, d, row_bytes;
    uint32_t number_factor;  // of a row's number in its sum
    int32_t value_bytes;     // 4: float32, 2: bfloat16, 1: int8
};

// How many rows do not match their checksums.
SL_EXPORT int64_t sl_take_rows(const TakeRows* a) {
    int64_t n_wrong = 0;
    for (int64_t i = 0; i < a->n; i++) {
        if (i + ROWS_AHEAD < a->n) {
            const uint8_t* next = a->values + a->rows[i + ROWS_AHEAD] * a->row_bytes;
            for (int64_t b = 0; b < a->row_bytes; b += 64) __builtin_prefetch(next + b, 0, 2);
        }
        const int64_t number = a->rows[i];
        const uint8_t* row = a->values + number * a->row_bytes;
        const float scale = a->scale ? a->scale[number] : 1;
        if (a->sums) {
            const uint32_t sum = sum_of(row, a->row_bytes) + (uint32_t(number) + 1) * a->number_factor + (a->scale ? std::bit_cast<uint32_t>(scale) : 0);
            n_wrong += sum != a->sums[number];
        }
        if (a->value_bytes == 4) std::memcpy(a->targets[i], row, a->row_bytes);
        else if (a->value_bytes == 2) from_bf16(row, a->d, a->targets[i]);
        else from_int8(row, a->d, scale, a->targets[i]);
    }
    return n_wrong;
}

}  // namespace sl

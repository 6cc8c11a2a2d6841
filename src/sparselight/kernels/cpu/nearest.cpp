// For each row of a chunk the other row with the largest dot product: screened like encoding, every pair once, and decided by dot().
#include <atomic>

#include "abi.hpp"
#include "screen.hpp"

namespace sl {

struct Nearest {
    const float* rows;     // [row d]
    const int64_t* order;  // [row], a permutation; chunks are runs of it
    int64_t n_rows, d, chunk;
    int32_t format, n_threads;
    int64_t* partner;  // out [row]
};

namespace {

// The best partner known of each row of a chunk, by exact dot products; among equal ones the lowest row. Rows are known by their places.
struct Best {
    Buffer<float> value;
    Buffer<int32_t> place;

    explicit Best(int64_t n) : value(n), place(n) {}
    bool failed() const { return value.failed() || place.failed(); }
    void start(int64_t n) {
        std::fill(value.data(), value.data() + n, -INFINITY);
        std::fill(place.data(), place.data() + n, -1);
    }
    void offer(int64_t i, int64_t other, float v, const int64_t* order) {
        if (v > value[i] || (v == value[i] && (place[i] < 0 || order[other] < order[place[i]]))) value[i] = v, place[i] = int32_t(other);
    }
};

struct Pair {
    int32_t i, j;
    float bound;
};

// One thread's work on a chunk: blocks of rows against all later rows.
class Search {
  public:
    Search(const Nearest& arguments, const Packed& matrix, const int64_t* members, int64_t size, int64_t capacity)
        : best(size), a(arguments), packed(matrix), order(members), n(size), strips(matrix.format, capacity, a.d), row(matrix.format, a.d),
          floor(matrix.n_panels * LATENTS) {
        if (failed()) return;
        best.start(n);
        std::fill(floor.data(), floor.data() + packed.n_panels * LATENTS, -INFINITY);
    }
    bool failed() const { return best.failed() || strips.failed() || row.failed() || floor.failed() || pairs.failed(); }

    template <Format FORMAT>
    void run(int64_t begin, int64_t end) {
        [[maybe_unused]] const TileRegisters registers;
        alignas(64) float product[TOKENS * LATENTS];
        strips.set(end - begin, a.d, row, [&](int64_t i) { return a.rows + order[begin + i] * a.d; });
        for (int64_t p = begin / LATENTS; p < packed.n_panels; p++)
            for (int64_t s = 0; s < strips.n_strips; s++) {
                tile<FORMAT>(strips.strip(s), packed.panel(p), packed.units, product, [] {});
                look<FORMAT>(product, begin, s * TOKENS, p * LATENTS);
            }
    }

    // Compute the pairs that may still matter.
    void decide() {
        for (const Pair& pair : pairs) {
            const bool for_i = !(pair.bound < floor[pair.i]), for_j = !(pair.bound < floor[pair.j]);
            if (!for_i && !for_j) continue;
            const float value = dot(a.rows + order[pair.i] * a.d, a.rows + order[pair.j] * a.d, a.d);
            if (for_i) best.offer(pair.i, pair.j, value, order), floor[pair.i] = std::fmax(floor[pair.i], best.value[pair.i]);
            if (for_j) best.offer(pair.j, pair.i, value, order), floor[pair.j] = std::fmax(floor[pair.j], best.value[pair.j]);
        }
        pairs.clear();
    }

    Best best;

  private:
    template <Format FORMAT>
    void look(const float* product, int64_t begin, int64_t first, int64_t latent) {
        for (int64_t t = first; t < std::min(first + TOKENS, strips.n_tokens); t++) {
            const int64_t i = begin + t;
            if (latent + LATENTS <= i + 1) continue;  // earlier rows only
            for (int h = 0; h < 2; h++) {
                const int64_t j = latent + h * LANES;
                const Vec reach = load(packed.reach + j), others = load(&floor[j]), own = all(floor[i]);
                Vec value = load(product + (t - first) * LATENTS + h * LANES);
                if constexpr (FORMAT == INT8) value = (value - all(strips.shift[t])) * (all(strips.scale[t]) * load(packed.scale + j));
                const Vec gap = all(strips.slack[t]) * reach + all(underflow(a.d)), bounds = value + gap;
                if (const uint32_t lanes = not_below(bounds, own) | not_below(bounds, others)) keep(i, j, lanes, bounds, gap);
            }
        }
    }

    void keep(int64_t i, int64_t first, uint32_t lanes, Vec bounds, Vec gaps) {
        for (; lanes; lanes &= lanes - 1) {
            const int lane = __builtin_ctz(lanes);
            const int64_t j = first + lane;
            const float bound = bounds[lane], least = bound - 2 * gaps[lane] - std::fabs(bound) * 0x1p-20f;
            if (j <= i || j >= n || !(std::fabs(bound) < INFINITY)) continue;  // a row that is not finite has no near one
            if (bound < floor[i] && bound < floor[j]) continue;
            floor[i] = std::fmax(floor[i], least), floor[j] = std::fmax(floor[j], least);
            pairs.push({int32_t(i), int32_t(j), bound});
        }
        if (pairs.size() > 64 * n) decide();
    }

    const Nearest& a;
    const Packed& packed;
    const int64_t* order;
    const int64_t n;
    Strips strips;
    Row row;
    Buffer<float> floor;  // a row's largest product is at least this
    List<Pair> pairs;
};

bool search_chunk(const Nearest& a, const int64_t* order, int64_t n, void* memory) {
    const Packed packed(memory, Format(a.format), n, a.d);
    std::atomic<int> failed{0};
    over_blocks(packed.n_panels, 4, a.n_threads, [&](int64_t begin, int64_t end) {
        Row row(packed.format, a.d);
        if (row.failed()) failed = 1;
        else for (int64_t p = begin; p < end; p++) packed.set_panel(p, row, [&](int64_t j) { return a.rows + order[j] * a.d; });
    });
    Best best(n);
    if (failed || best.failed()) return false;
    best.start(n);
    const int64_t capacity = block_size(n, packed.units, a.n_threads);
    std::atomic<int64_t> next{0};
    std::atomic_flag merging = ATOMIC_FLAG_INIT;
    on_threads(a.n_threads, [&](int) {
        Search search(a, packed, order, n, capacity);
        for (int64_t begin; !search.failed() && (begin = next.fetch_add(capacity)) < n;)
            with_format(packed.format, [&](auto format) { search.run<format>(begin, std::min(begin + capacity, n)); });
        if (search.failed()) { failed = 1; return; }
        search.decide();
        while (merging.test_and_set(std::memory_order_acquire)) {}
        for (int64_t i = 0; i < n; i++)
            if (search.best.place[i] >= 0) best.offer(i, search.best.place[i], search.best.value[i], order);
        merging.clear(std::memory_order_release);
    });
    for (int64_t i = 0; i < n; i++) a.partner[order[i]] = order[best.place[i] >= 0 ? best.place[i] : n == 1 ? 0 : i == 0 ? 1 : 0];
    return !failed;
}

}  // namespace

// Many chunks are shared out whole; of few ones each is shared.
SL_EXPORT int sl_nearest(const Nearest* a) {
    const int64_t n_chunks = (a->n_rows + a->chunk - 1) / a->chunk;
    const bool whole = n_chunks >= 2 * a->n_threads;
    Nearest one = *a;
    one.n_threads = whole ? 1 : a->n_threads;
    std::atomic<int> failed{0};
    std::atomic<int64_t> next{0};
    on_threads(whole ? a->n_threads : 1, [&](int) {
        Buffer<uint8_t> memory(Packed::bytes(Format(a->format), std::min(a->chunk, a->n_rows), a->d));
        if (memory.failed()) failed = 1;
        for (int64_t c; !failed && (c = next++) < n_chunks;)
            if (!search_chunk(one, a->order + c * a->chunk, std::min(a->chunk, a->n_rows - c * a->chunk), memory.data())) failed = 1;
    });
    return failed;
}

}  // namespace sl

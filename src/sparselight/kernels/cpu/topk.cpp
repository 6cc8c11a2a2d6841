// Each token's k largest positive pre-activations. Blocks of tokens are screened; what survives is decided by dot(), so a value does not
// depend on how its entry was found, on what was predicted, or on threads.
#include "abi.hpp"
#include "screen.hpp"

namespace sl {

struct TopK {
    const float *x, *W, *bias;  // x [token d], W [latent d]
    void* packed;
    int64_t n_tokens, n_latents, d, k;
    double floor_per_norm;  // predicted smallest value kept, as a multiple of the token's norm; 0 without prediction
    int32_t format, n_threads;
    int32_t* latents;   // out [token k], ascending, the first counts[token] of each
    float* values;      // out [token k]
    int64_t* counts;    // out [token]
    float* kth_per_norm;  // out [token]: what a good prediction would have been
    int64_t counters[4];  // out
};

namespace {

// A decided entry: its value (positive, so that its bits sort like the number) above, among equal ones the lowest latent first.
uint64_t decided(float value, int64_t latent) { return uint64_t(std::bit_cast<uint32_t>(value)) << 32 | uint32_t(~latent); }
float value_of(uint64_t entry) { return std::bit_cast<float>(uint32_t(entry >> 32)); }
int32_t latent_of_decided(uint64_t entry) { return int32_t(~uint32_t(entry)); }

// One thread's work.
class TopKBlock {
  public:
    TopKBlock(const TopK& arguments, const Packed& matrix, const RaisedBias& raised, int64_t capacity)
        : a(arguments), encoder{a.W, a.bias, a.d}, packed(matrix), bias(raised), strips(packed.format, capacity, a.d), row(packed.format, a.d),
          found(capacity, a.k), tokens(capacity), n_best(capacity), best(capacity * a.k), pool(found.room + a.k), lower(found.room) {}

    bool failed() const {
        return strips.failed() || row.failed() || found.failed() || tokens.failed() || n_best.failed() || best.failed() || pool.failed() || lower.failed();
    }

    void run(int64_t begin, int64_t end, Counters& totals) {
        n_tokens = 0;
        for (int64_t token = begin; token < end; token++) tokens[n_tokens++] = int32_t(token);
        search(float(a.floor_per_norm));
        totals.redone += n_tokens;
        if (n_tokens > 0) search(0);
        totals.candidates += n_candidates, totals.rescored += n_rescored, totals.broken += n_broken;
        n_candidates = n_rescored = n_broken = 0;
    }

  private:
    const float* x(int64_t i) const { return a.x + int64_t(tokens[i]) * a.d; }

    // Find the entries of all tokens of the block; those for which the predicted floor was too high remain.
    void search(float floor_per_norm) {
        strips.set(n_tokens, a.d, row, [&](int64_t i) { return x(i); });
        for (int64_t i = 0; i < n_tokens; i++) {
            const float floor = floor_per_norm * strips.norm[i];
            found.start(i, floor > 0 && floor < INFINITY ? floor : 0);
            n_best[i] = 0;
        }
        const auto on_long_list = [&](int64_t i) { shorten(i); };
        with_format(packed.format, [&](auto format) { Screen<format, decltype(on_long_list)>(strips, packed, bias, found, on_long_list).run(); });
        int64_t n_left = 0;
        for (int64_t i = 0; i < n_tokens; i++) {
            decide(i);
            const float kth = n_best[i] == a.k ? kth_best(i) : 0, floor = floor_per_norm * strips.norm[i];
            if (floor > 0 && !(kth >= floor)) tokens[n_left++] = tokens[i];
            else put(i, kth);
        }
        n_tokens = n_left;
    }

    // Drop what k others certainly surpass. Where that does not help, decide what is there.
    void shorten(int64_t i) {
        Candidate* list = found.list(i);
        const int64_t n = found.size[i];
        if (n >= a.k) {
            for (int64_t c = 0; c < n; c++) {
                const float bound = bound_of(list[c]);
                const int64_t latent = latent_of(list[c]);
                const float gap = 2 * (strips.slack[i] * packed.reach[latent] + RaisedBias::margin(a.bias[latent], 0, a.d)) + std::fabs(bound) * 0x1p-20f;
                lower[c] = bound - gap >= 0 ? bound - gap : 0;
            }
            std::nth_element(lower.data(), lower.data() + a.k - 1, lower.data() + n, std::greater<>());
            const float kth = lower[a.k - 1];
            if (kth > found.threshold[i]) {
                found.threshold[i] = kth;
                found.size[i] = int32_t(std::remove_if(list, list + n, [&](Candidate c) { return bound_of(c) < kth; }) - list);
            }
        }
        if (found.size[i] > found.most() / 2) decide(i);
        found.look_at[i] = int32_t(std::min(found.size[i] + found.first_look / 2, found.most()));
    }

    // Compute the candidates exactly and keep the k best of them and of those kept before. The k highest bounds go first: their k-th value
    // spares most of the others.
    void decide(int64_t i) {
        Candidate* list = found.list(i);
        const int64_t n = found.size[i];
        n_candidates += n, found.size[i] = 0;
        int64_t n_pool = n_best[i];
        std::copy_n(&best[i * a.k], n_pool, pool.data());
        float floor = found.threshold[i];
        const auto add = [&](Candidate c, float value) {
            n_rescored++;
            n_broken += value > bound_of(c);
            if (value > 0 && value >= floor) pool[n_pool++] = decided(value, latent_of(c));
        };
        const int64_t first = std::min(n, a.k);
        if (n > a.k) std::nth_element(list, list + a.k, list + n, std::greater<>());
        encoder.rescore(x(i), list, first, add);
        if (n_pool >= a.k) floor = std::max(floor, keep_k(n_pool));
        Candidate* rest = std::remove_if(list + first, list + n, [&](Candidate c) { return bound_of(c) < floor; });
        encoder.rescore(x(i), list + first, rest - list - first, add);
        if (n_pool >= a.k) found.threshold[i] = std::max(floor, keep_k(n_pool));
        n_best[i] = int32_t(n_pool);
        std::copy_n(pool.data(), n_pool, &best[i * a.k]);
    }

    // Shorten the pool to its k best; returns the k-th value.
    float keep_k(int64_t& n_pool) {
        std::nth_element(pool.data(), pool.data() + a.k - 1, pool.data() + n_pool, std::greater<>());
        n_pool = a.k;
        return value_of(pool[a.k - 1]);
    }
    float kth_best(int64_t i) const { return value_of(*std::min_element(&best[i * a.k], &best[i * a.k] + a.k)); }

    void put(int64_t i, float kth) {
        const int64_t token = tokens[i];
        uint64_t* entries = &best[i * a.k];
        std::sort(entries, entries + n_best[i], [](uint64_t l, uint64_t r) { return uint32_t(l) > uint32_t(r); });
        for (int64_t e = 0; e < n_best[i]; e++) {
            a.latents[token * a.k + e] = latent_of_decided(entries[e]);
            a.values[token * a.k + e] = value_of(entries[e]);
        }
        a.counts[token] = n_best[i];
        a.kth_per_norm[token] = strips.norm[i] > 0 ? kth / strips.norm[i] : 0;
    }

    const TopK& a;
    const Encoder encoder;
    const Packed& packed;
    const RaisedBias& bias;
    Strips strips;
    Row row;
    Candidates found;
    int64_t n_tokens = 0, n_candidates = 0, n_rescored = 0, n_broken = 0;
    Buffer<int32_t> tokens, n_best;
    Buffer<uint64_t> best, pool;
    Buffer<float> lower;
};

}  // namespace

SL_EXPORT int sl_topk(TopK* a) {
    const Packed packed(a->packed, Format(a->format), a->n_latents, a->d);
    const RaisedBias bias(a->bias, nullptr, packed);
    if (bias.up.failed()) return 1;
    constexpr int64_t MOST_CANDIDATES = 1 << 22;  // of a block, so that a large k does not fill the memory
    const int64_t most_tokens = std::max<int64_t>(Strips::padded(MOST_CANDIDATES / Candidates::room_for(a->k)), TOKENS);
    const int64_t capacity = std::min(block_size(a->n_tokens, packed.units, a->n_threads), most_tokens), n_blocks = (a->n_tokens + capacity - 1) / capacity;
    Counters totals;
    std::atomic<int64_t> next{0};
    std::atomic<int> failed{0};
    on_threads(int(std::min<int64_t>(a->n_threads, n_blocks)), [&](int) {
        TopKBlock block(*a, packed, bias, capacity);
        if (block.failed()) { failed = 1; return; }
        for (int64_t b; (b = next++) < n_blocks;) block.run(b * capacity, std::min((b + 1) * capacity, a->n_tokens), totals);
    });
    totals.copy_to(a->counters);
    return failed;
}

}  // namespace sl

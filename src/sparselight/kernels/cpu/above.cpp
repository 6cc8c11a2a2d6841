// All entries that reach a value, the same for all latents or one for each. Screened and decided like topk.cpp.
#include <memory>
#include <new>

#include "abi.hpp"
#include "screen.hpp"

namespace sl {

struct Above {
    const float *x, *W, *bias, *threshold;  // threshold [latent]: entries above it; null: positive entries that reach `floor`
    void* packed;
    int64_t n_tokens, n_latents, d, most_entries;  // with more entries than that it gives up
    double floor;
    int32_t format, n_threads;
    int64_t n_entries;    // out
    int64_t counters[4];  // out
};

namespace {

struct Entry {
    int32_t token, latent;
    float value;
};

// A selection: one list for each block of tokens, in order.
struct Found {
    int64_t n_blocks;
    std::unique_ptr<List<Entry>[]> blocks;
};

// One thread's work.
class AboveBlock {
  public:
    AboveBlock(const Above& arguments, const Packed& matrix, const RaisedBias& raised, int64_t capacity)
        : a(arguments), encoder{a.W, a.bias, a.d}, packed(matrix), bias(raised), strips(packed.format, capacity, a.d), row(packed.format, a.d),
          found(capacity, 0) {}
    bool failed() const { return strips.failed() || row.failed() || found.failed(); }

    void run(int64_t begin, int64_t end, List<Entry>& out, Counters& totals) {
        strips.set(end - begin, a.d, row, [&](int64_t i) { return a.x + (begin + i) * a.d; });
        for (int64_t i = 0; i < end - begin; i++) found.start(i, a.threshold ? 0 : float(a.floor));
        bool in_order = true;
        const auto on_long_list = [&](int64_t i) {
            if (found.size[i] > found.most()) decide(begin, i, out, totals), in_order = false;
            found.look_at[i] = int32_t(found.most());
        };
        with_format(packed.format, [&](auto format) { Screen<format, decltype(on_long_list)>(strips, packed, bias, found, on_long_list).run(); });
        for (int64_t i = 0; i < end - begin; i++) decide(begin, i, out, totals);
        if (!in_order && !out.failed())
            std::sort(out.begin(), out.end(), [](const Entry& l, const Entry& r) { return std::pair(l.token, l.latent) < std::pair(r.token, r.latent); });
    }

  private:
    void decide(int64_t begin, int64_t i, List<Entry>& out, Counters& totals) {
        int64_t broken = 0;
        totals.candidates += found.size[i], totals.rescored += found.size[i];
        encoder.rescore(a.x + (begin + i) * a.d, found.list(i), found.size[i], [&](Candidate c, float value) {
            const int64_t latent = latent_of(c);
            broken += value - (a.threshold ? a.threshold[latent] : 0) > bound_of(c);
            if (a.threshold ? value > a.threshold[latent] : value > 0 && value >= float(a.floor)) out.push({int32_t(begin + i), int32_t(latent), value});
        });
        totals.broken += broken;
        found.size[i] = 0;
    }

    const Above& a;
    const Encoder encoder;
    const Packed& packed;
    const RaisedBias& bias;
    Strips strips;
    Row row;
    Candidates found;
};

// The n-th largest of all values; they are positive, so their bits sort like the numbers.
float nth_largest(const Found& found, int64_t n, Buffer<uint32_t>& room) {
    int64_t size = 0;
    for (int64_t b = 0; b < found.n_blocks; b++)
        for (const Entry& entry : found.blocks[b]) room[size++] = std::bit_cast<uint32_t>(entry.value);
    std::nth_element(room.data(), room.data() + n - 1, room.data() + size, std::greater<>());
    return std::bit_cast<float>(room[n - 1]);
}

}  // namespace

// Returns a handle for sl_found_take and sl_found_free, or null when memory ran out.
SL_EXPORT void* sl_above(Above* a) {
    const Packed packed(a->packed, Format(a->format), a->n_latents, a->d);
    const RaisedBias bias(a->bias, a->threshold, packed);
    const int64_t capacity = block_size(a->n_tokens, packed.units, a->n_threads), n_blocks = (a->n_tokens + capacity - 1) / capacity;
    auto* found = new (std::nothrow) Found{n_blocks, std::unique_ptr<List<Entry>[]>(new (std::nothrow) List<Entry>[n_blocks])};
    Counters totals;
    std::atomic<int64_t> next{0}, n_entries{0};
    std::atomic<int> failed{bias.up.failed() || !found || !found->blocks};
    if (!failed) on_threads(int(std::min<int64_t>(a->n_threads, n_blocks)), [&](int) {
        AboveBlock block(*a, packed, bias, capacity);
        if (block.failed()) failed = 1;
        for (int64_t b; !failed && n_entries <= a->most_entries && (b = next++) < n_blocks;) {
            block.run(b * capacity, std::min((b + 1) * capacity, a->n_tokens), found->blocks[b], totals);
            n_entries += found->blocks[b].size();
            if (found->blocks[b].failed()) failed = 1;
        }
    });
    totals.copy_to(a->counters);
    a->n_entries = n_entries;
    if (failed) { delete found; return nullptr; }
    return found;
}

// The n_keep largest entries, or all; among equal ones the first. latents, values [min(n_keep, entries)]; indptr [token + 1].
SL_EXPORT int sl_found_take(const void* handle, int64_t n_entries, int64_t n_keep, int64_t n_tokens, int32_t* latents, float* values, int64_t* indptr) {
    const Found& found = *static_cast<const Found*>(handle);
    const bool all_of_them = n_keep >= n_entries;
    float cut = -INFINITY;
    int64_t n_ties = n_entries;
    if (!all_of_them && n_keep > 0) {
        Buffer<uint32_t> room(n_entries);
        if (room.failed()) return 1;
        cut = nth_largest(found, n_keep, room);
        n_ties = n_keep;
        for (int64_t i = 0; i < n_entries; i++) n_ties -= std::bit_cast<float>(room[i]) > cut;
    }
    std::fill(indptr, indptr + n_tokens + 1, 0);
    int64_t n = 0;
    for (int64_t b = 0; b < found.n_blocks && (all_of_them || n_keep > 0); b++)
        for (const Entry& entry : found.blocks[b]) {
            if (!all_of_them && (entry.value < cut || (entry.value == cut && n_ties-- <= 0))) continue;
            latents[n] = entry.latent, values[n] = entry.value, n++;
            indptr[entry.token + 1]++;
        }
    for (int64_t token = 0; token < n_tokens; token++) indptr[token + 1] += indptr[token];
    return 0;
}

SL_EXPORT void sl_found_free(void* handle) { delete static_cast<Found*>(handle); }

}  // namespace sl

// Work is shared out on the threads that PyTorch already has: its OpenMP runtime's GOMP_parallel, handed in by the loader (libgomp,
// libiomp5 and libomp all offer it). Two runtimes of their own would spin against each other. Without one, everything runs on one thread.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <utility>

namespace sl {

using Runtime = void (*)(void (*)(void*), void*, unsigned, unsigned);
extern Runtime runtime;

// body(thread) on up to n_threads threads at once, each with a number of its own.
template <class Body>
void on_threads(int n_threads, const Body& body) {
    if (!runtime || n_threads <= 1) return body(0);
    struct Team {
        const Body& body;
        std::atomic<int> next{0};
    } team{body};
    runtime([](void* p) { auto* t = static_cast<Team*>(p); t->body(t->next++); }, &team, unsigned(n_threads), 0);
}

// body(begin, end) over 0 .. n in blocks; who takes which block is left to chance, so a block's results must not depend on it.
template <class Body>
void over_blocks(int64_t n, int64_t block, int n_threads, const Body& body) {
    std::atomic<int64_t> next{0};
    on_threads(int(std::min<int64_t>(n_threads, (n + block - 1) / block)), [&](int) {
        for (int64_t begin; (begin = next.fetch_add(block)) < n;) body(begin, std::min(begin + block, n));
    });
}

// Memory that is either there or not: `failed()` instead of an exception, which must not cross the runtime's frames.
template <class T>
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(int64_t size) { reserve(size); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }

    bool reserve(int64_t size) {  // keeps nothing
        std::free(data_);
        const size_t bytes = (size_t(std::max<int64_t>(size, 1)) * sizeof(T) + 63) / 64 * 64;
        data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
        return data_ != nullptr;
    }
    bool failed() const { return !data_; }
    T* data() { return data_; }
    T& operator[](int64_t i) { return data_[i]; }
    const T& operator[](int64_t i) const { return data_[i]; }

  private:
    T* data_ = nullptr;
};

// A list that grows; after a failed push `failed()` stays true and further pushes do nothing.
template <class T>
class List {
  public:
    List() = default;
    List(const List&) = delete;
    List& operator=(const List&) = delete;
    ~List() { std::free(data_); }

    void push(const T& item) {
        if (size_ == room_ && !grow()) return;
        data_[size_++] = item;
    }
    void clear() { size_ = 0; }
    bool failed() const { return failed_; }
    int64_t size() const { return size_; }
    T* begin() { return data_; }
    T* end() { return data_ + size_; }
    const T* begin() const { return data_; }
    const T* end() const { return data_ + size_; }

  private:
    bool grow() {
        const int64_t room = std::max<int64_t>(1024, room_ * 2);
        T* data = failed_ ? nullptr : static_cast<T*>(std::realloc(static_cast<void*>(data_), size_t(room) * sizeof(T)));
        if (!data) return !(failed_ = true);
        data_ = data, room_ = room;
        return true;
    }
    T* data_ = nullptr;
    int64_t size_ = 0, room_ = 0;
    bool failed_ = false;
};

}  // namespace sl

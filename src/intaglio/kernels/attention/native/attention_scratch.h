// Memory of one call, and the threads that share its tasks.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace intaglio::attention {
namespace {  // a copy for each set of instructions

// Hands out aligned pieces of one block; without a block it only measures.
class Scratch {
  public:
    Scratch() : block(nullptr, std::free) {}
    explicit Scratch(int64_t bytes) : block(static_cast<char*>(std::aligned_alloc(64, bytes)), std::free) {
        if (!block) std::abort();
    }
    template <typename T>
    T* take(int64_t count) {
        T* piece = block ? reinterpret_cast<T*>(block.get() + used) : nullptr;
        used += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
        return piece;
    }
    int64_t bytes() const { return used; }

  private:
    std::unique_ptr<char, decltype(&std::free)> block;
    int64_t used = 0;
};

// Each thread makes a Worker(problem, scratch) and runs it on neighbouring tasks of 0 .. tasks - 1. What a task computes must
// not depend on which tasks its thread has.
template <typename Worker, typename Problem>
void in_parallel(const Problem& problem, int64_t tasks, int64_t threads) {
    Scratch measure;
    Worker(problem, measure);
    const int64_t runs = threads < tasks ? threads : tasks;
#pragma omp parallel for num_threads(runs) schedule(static, 1) if (runs > 1)
    for (int64_t run = 0; run < runs; ++run) {
        Scratch scratch(measure.bytes());
        Worker worker(problem, scratch);
        const int64_t first = run * tasks / runs;
        for (int64_t task = first; task < (run + 1) * tasks / runs; ++task) worker.run(task, task == first);
    }
}

}  // namespace
}  // namespace intaglio::attention

// The machine: fibers, their schedule, barriers.
#include "simt.h"

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <ucontext.h>

#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace simt {

dim3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t kStack = 64 << 10;

// Threads that wait for one another; a new generation begins when they have all come.
struct Rendezvous {
  unsigned generation = 0, arrived = 0;  // `arrived`: a count, or for a warp a mask of lanes
  unsigned char slots[2][32][kSlot];     // of this generation and the one before
};

struct Fiber {
  ucontext_t context;
  void* fake_stack = nullptr;  // the sanitizer's
  dim3 index;
  unsigned linear;
  bool done;
  const char* waits_at;  // nullptr: can run
  const Rendezvous* waits_for;
  unsigned generation;
};

struct Warp {
  std::map<std::pair<unsigned, std::string>, Rendezvous> meetings;  // by mask and kind of collective
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Rendezvous barrier;
  unsigned live;  // threads that have not returned: the others are not waited for, as on a GPU
  Fiber* running = nullptr;
  ucontext_t scheduler;
  void* fake_stack = nullptr;
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
  const std::function<void()>* body;
  std::exception_ptr error;
  unsigned block = 0;  // counts the blocks that ever ran
};
Machine machine;

// Reused by every block; the heap's red zones stand guard at their ends.
unsigned char* stack_of(size_t fiber) {
  static std::vector<std::unique_ptr<unsigned char[]>> stacks;
  while (stacks.size() <= fiber) stacks.emplace_back(new unsigned char[kStack]);
  return stacks[fiber].get();
}

void to_scheduler(bool forever) {
  Fiber& me = *machine.running;
  __sanitizer_start_switch_fiber(forever ? nullptr : &me.fake_stack, machine.stack_bottom, machine.stack_size);
  swapcontext(&me.context, &machine.scheduler);
  __sanitizer_finish_switch_fiber(me.fake_stack, nullptr, nullptr);
}

void release_barrier_if_complete() {
  if (machine.barrier.arrived > 0 && machine.barrier.arrived == machine.live) {
    machine.barrier.arrived = 0;
    ++machine.barrier.generation;
  }
}

void wait(const Rendezvous& meeting, unsigned generation, const char* where) {
  if (meeting.generation != generation) return;
  Fiber& me = *machine.running;
  me.waits_for = &meeting;
  me.generation = generation;
  me.waits_at = where;
  to_scheduler(false);
}

void thread_main() {
  __sanitizer_finish_switch_fiber(nullptr, &machine.stack_bottom, &machine.stack_size);
  try {
    (*machine.body)();
  } catch (...) {
    machine.error = std::current_exception();
  }
  machine.running->done = true;
  --machine.live;
  release_barrier_if_complete();
  to_scheduler(true);
}

void start(Fiber& fiber) {
  unsigned char* stack = stack_of(fiber.linear);
  __asan_unpoison_memory_region(stack, kStack);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = kStack;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, thread_main, 0);
  fiber.context.uc_stack.ss_size = 0;  // else every switch would make the sanitizer forget the stack's red zones
}

void resume(Fiber& fiber) {
  fiber.waits_at = nullptr;
  thread_index = fiber.index;
  machine.running = &fiber;
  __sanitizer_start_switch_fiber(&machine.fake_stack, stack_of(fiber.linear), kStack);
  swapcontext(&machine.scheduler, &fiber.context);
  __sanitizer_finish_switch_fiber(machine.fake_stack, nullptr, nullptr);
  if (machine.error) std::rethrow_exception(std::exchange(machine.error, nullptr));
}

std::string name(const dim3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

// One thread of every place where threads wait.
std::string deadlock() {
  std::map<std::string, std::string> places;
  for (const Fiber& fiber : machine.fibers)
    if (!fiber.done) places.emplace(fiber.waits_at, name(fiber.index));
  std::string message = "deadlock in block " + name(block_index) + ":";
  for (const auto& [place, thread] : places) message += " thread " + thread + " waits at " + place + ";";
  return message + " " + std::to_string(machine.fibers.size() - machine.live) + " threads have returned";
}

std::vector<unsigned> first_order(unsigned count, Schedule schedule) {
  std::vector<unsigned> order(count);
  for (unsigned i = 0; i < count; ++i) order[i] = schedule == Schedule::kReversed ? count - 1 - i : i;
  return order;
}

void next_order(std::vector<unsigned>& order, Schedule schedule, std::mt19937& random) {
  if (schedule == Schedule::kShuffled) std::shuffle(order.begin(), order.end(), random);
}

dim3 unravel(unsigned linear, const dim3& size) {
  return {linear % size.x, linear / size.x % size.y, linear / size.x / size.y};
}

void run_block(Schedule schedule, std::mt19937& random) {
  const unsigned threads = block_size.x * block_size.y * block_size.z;
  ++machine.block;
  machine.live = threads;
  machine.barrier = {};
  machine.warps.assign((threads + 31) / 32, {});
  machine.fibers.assign(threads, {});
  for (unsigned i = 0; i < threads; ++i) {
    machine.fibers[i].linear = i;
    machine.fibers[i].index = unravel(i, block_size);
    start(machine.fibers[i]);
  }
  std::vector<unsigned> order = first_order(threads, schedule);
  while (machine.live > 0) {
    next_order(order, schedule, random);
    bool moved = false;
    for (const unsigned i : order) {
      Fiber& fiber = machine.fibers[i];
      if (fiber.done || (fiber.waits_at != nullptr && fiber.waits_for->generation == fiber.generation)) continue;
      resume(fiber);
      moved = true;
    }
    if (!moved) throw std::runtime_error(deadlock());
  }
}

}  // namespace

void launch(dim3 grid, dim3 block, Schedule schedule, const std::function<void()>& body) {
  std::mt19937 random(1);
  grid_size = grid;
  block_size = block;
  machine.body = &body;
  std::vector<unsigned> order = first_order(grid.x * grid.y * grid.z, schedule);
  next_order(order, schedule, random);
  for (const unsigned i : order) {
    block_index = unravel(i, grid);
    run_block(schedule, random);
  }
}

unsigned lane() { return machine.running->linear % 32; }

void block_barrier() {
  const unsigned generation = machine.barrier.generation;
  ++machine.barrier.arrived;
  release_barrier_if_complete();
  wait(machine.barrier, generation, "__syncthreads");
}

Slots warp_exchange(unsigned mask, const void* value, size_t size, const char* what) {
  if (!(mask >> lane() & 1))
    throw std::runtime_error(std::string(what) + ": a lane calls it with a mask without itself");
  Rendezvous& meeting = machine.warps[machine.running->linear / 32].meetings[{mask, what}];
  const unsigned generation = meeting.generation;
  if (size > 0) std::memcpy(meeting.slots[generation % 2][lane()], value, size);
  meeting.arrived |= 1u << lane();
  if (meeting.arrived == mask) {
    meeting.arrived = 0;
    ++meeting.generation;
  }
  wait(meeting, generation, what);
  return meeting.slots[generation % 2];
}

// ---- shared memory: the sanitizer's own list of global variables says where an array lies

namespace {

// As GCC and the sanitizer's runtime agree on it.
struct Location {
  const char* file;
  int line, column;
};
struct Global {
  uintptr_t begin;
  size_t size, padded_size;
  const char *name, *module;
  uintptr_t dynamic_initialiser;
  const Location* location;
  uintptr_t odr_indicator;
};
struct Array {
  std::string file;
  int line;
  void* begin;
  size_t size;
};
std::vector<Array>& arrays() {  // filled before main, hence no plain variable
  static std::vector<Array> list;
  return list;
}

}  // namespace

// Linked with --wrap: called for the global variables of every sanitized file, before anything else runs.
extern "C" void __real___asan_register_globals(const Global* globals, size_t count);
extern "C" void __wrap___asan_register_globals(const Global* globals, size_t count) {
  for (const Global* g = globals; g != globals + count; ++g)
    if (g->location != nullptr)
      arrays().push_back({g->location->file, g->location->line, reinterpret_cast<void*>(g->begin), g->size});
  __real___asan_register_globals(globals, count);
}

// The arrays declared there, of every instance of the template, become NaN when the first thread of a block arrives.
void poison_shared(const char* file, int line) {
  static std::map<std::pair<std::string, int>, unsigned> poisoned;  // for which block
  if (std::exchange(poisoned[{file, line}], machine.block) == machine.block) return;
  bool found = false;
  for (const Array& array : arrays()) {
    if (array.line != line || array.file != file) continue;
    std::memset(array.begin, 0xff, array.size);
    found = true;
  }
  if (!found) throw std::runtime_error(std::string("no shared array is known at ") + file + ":" + std::to_string(line));
}

}  // namespace simt

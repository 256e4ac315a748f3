// The machine: fibers, their schedule, barriers.
#include "simt.h"

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <ucontext.h>

#include <map>
#include <memory>
#include <random>
#include <set>
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
  unsigned stack;  // which one is its own
  bool done;
  bool naps;             // waits for memory to change: it can run, but does not count as moving
  const char* waits_at;  // nullptr: can run
  const Rendezvous* waits_for;
  unsigned generation;
};

struct Warp {
  std::map<std::pair<unsigned, std::string>, Rendezvous> meetings;  // by mask and kind of collective
};

// Where a __shared__ array lies.
struct Array {
  std::string file;
  int line;
  unsigned char* begin;
  size_t size;
};

struct Block {
  dim3 index;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Rendezvous barrier;
  unsigned live;  // threads that have not returned: the others are not waited for, as on a GPU
  std::set<std::pair<std::string, int>> poisoned;
  std::map<unsigned char*, std::vector<unsigned char>> shared;  // its arrays, while another block has its turn
};

struct Machine {
  Block* block = nullptr;
  Fiber* running = nullptr;
  ucontext_t scheduler;
  void* fake_stack = nullptr;
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
  const std::function<void()>* body;
  std::exception_ptr error;
  std::map<unsigned char*, size_t> shared;  // arrays that some block has declared
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
  Block& block = *machine.block;
  if (block.barrier.arrived > 0 && block.barrier.arrived == block.live) {
    block.barrier.arrived = 0;
    ++block.barrier.generation;
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
  --machine.block->live;
  release_barrier_if_complete();
  to_scheduler(true);
}

void start(Fiber& fiber) {
  unsigned char* stack = stack_of(fiber.stack);
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
  fiber.naps = false;
  thread_index = fiber.index;
  machine.running = &fiber;
  __sanitizer_start_switch_fiber(&machine.fake_stack, stack_of(fiber.stack), kStack);
  swapcontext(&machine.scheduler, &fiber.context);
  __sanitizer_finish_switch_fiber(machine.fake_stack, nullptr, nullptr);
  if (machine.error) std::rethrow_exception(std::exchange(machine.error, nullptr));
}

std::string name(const dim3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

// One thread of every place where threads wait.
std::string deadlock(const Block& block) {
  std::map<std::string, std::string> places;
  for (const Fiber& fiber : block.fibers)
    if (!fiber.done) places.emplace(fiber.naps ? "await" : fiber.waits_at, name(fiber.index));
  std::string message = "deadlock in block " + name(block.index) + ":";
  for (const auto& [place, thread] : places) message += " thread " + thread + " waits at " + place + ";";
  return message + " " + std::to_string(block.fibers.size() - block.live) + " threads have returned";
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

void begin(Block& block, dim3 index, unsigned number) {
  const unsigned threads = block_size.x * block_size.y * block_size.z;
  block.index = index;
  block.live = threads;
  block.barrier = {};
  block.warps.assign((threads + 31) / 32, {});
  block.fibers.assign(threads, {});
  for (unsigned i = 0; i < threads; ++i) {
    block.fibers[i].linear = i;
    block.fibers[i].stack = number * threads + i;
    block.fibers[i].index = unravel(i, block_size);
    start(block.fibers[i]);
  }
}

// Shared memory is one array for all blocks: each finds its own when its turn comes.
void turn_to(Block& block) {
  if (machine.block == &block) return;
  for (const auto& [array, size] : machine.shared) {
    if (machine.block != nullptr) machine.block->shared[array].assign(array, array + size);
    const auto mine = block.shared.find(array);
    if (mine != block.shared.end()) std::memcpy(array, mine->second.data(), size);
  }
  machine.block = &block;
  block_index = block.index;
}

// Until no thread can go on, or all have returned; whether any moved, beside those that look whether memory changed.
bool run(Block& block, std::vector<unsigned>& order, Schedule schedule, std::mt19937& random) {
  bool ever = false;
  turn_to(block);
  for (bool moved = true; moved && block.live > 0; ever |= moved) {
    next_order(order, schedule, random);
    moved = false;
    for (const unsigned i : order) {
      Fiber& fiber = block.fibers[i];
      if (fiber.done || (fiber.waits_at != nullptr && fiber.waits_for->generation == fiber.generation)) continue;
      resume(fiber);
      moved |= !fiber.naps;
    }
  }
  return ever;
}

std::vector<unsigned> all_blocks(dim3 grid, dim3 block, Schedule schedule, const std::function<void()>& body,
                                 std::mt19937& random) {
  grid_size = grid;
  block_size = block;
  machine.body = &body;
  machine.block = nullptr;
  std::vector<unsigned> order = first_order(grid.x * grid.y * grid.z, schedule);
  next_order(order, schedule, random);
  return order;
}

}  // namespace

void launch(dim3 grid, dim3 block, Schedule schedule, const std::function<void()>& body) {
  std::mt19937 random(1);
  for (const unsigned i : all_blocks(grid, block, schedule, body, random)) {
    Block running;
    begin(running, unravel(i, grid), 0);
    std::vector<unsigned> order = first_order(block.x * block.y * block.z, schedule);
    run(running, order, schedule, random);
    if (running.live > 0) throw std::runtime_error(deadlock(running));
    machine.block = nullptr;
  }
}

void launch_cooperative(dim3 grid, dim3 block, Schedule schedule, const std::function<void()>& body) {
  std::mt19937 random(1);
  const std::vector<unsigned> order = all_blocks(grid, block, schedule, body, random);
  std::vector<Block> blocks(order.size());
  std::vector<unsigned> threads = first_order(block.x * block.y * block.z, schedule);
  for (unsigned i = 0; i < blocks.size(); ++i) begin(blocks[i], unravel(i, grid), i);
  bool live = true;
  while (live) {
    bool moved = live = false;
    for (const unsigned i : order) {
      if (blocks[i].live > 0) moved |= run(blocks[i], threads, schedule, random);
      live |= blocks[i].live > 0;
    }
    if (live && !moved)
      for (const Block& stuck : blocks)
        if (stuck.live > 0) throw std::runtime_error(deadlock(stuck));
  }
  machine.block = nullptr;
}

void nap() {
  machine.running->naps = true;
  to_scheduler(false);
}

unsigned lane() { return machine.running->linear % 32; }

void block_barrier() {
  Rendezvous& barrier = machine.block->barrier;
  const unsigned generation = barrier.generation;
  ++barrier.arrived;
  release_barrier_if_complete();
  wait(barrier, generation, "__syncthreads");
}

Slots warp_exchange(unsigned mask, const void* value, size_t size, const char* what) {
  if (!(mask >> lane() & 1))
    throw std::runtime_error(std::string(what) + ": a lane calls it with a mask without itself");
  Rendezvous& meeting = machine.block->warps[machine.running->linear / 32].meetings[{mask, what}];
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
      arrays().push_back({g->location->file, g->location->line, reinterpret_cast<unsigned char*>(g->begin), g->size});
  __real___asan_register_globals(globals, count);
}

// The arrays declared there, of every instance of the template, become NaN when the first thread of a block arrives.
void poison_shared(const char* file, int line) {
  if (!machine.block->poisoned.insert({file, line}).second) return;
  bool found = false;
  for (const Array& array : arrays()) {
    if (array.line != line || array.file != file) continue;
    std::memset(array.begin, 0xff, array.size);
    machine.shared[array.begin] = array.size;
    found = true;
  }
  if (!found) throw std::runtime_error(std::string("no shared array is known at ") + file + ":" + std::to_string(line));
}

}  // namespace simt

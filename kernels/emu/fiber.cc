#include "kernels/emu/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace tandem::kernels::emu {
namespace {

// To __tsan_switch_to_fiber: the switch itself orders nothing; only barriers do.
constexpr unsigned kNoSync = 1;

// Frames grow under the sanitizers; untouched pages cost nothing.
size_t StackBytes() { return UnderAsan() || UnderTsan() ? 512u << 10 : 64u << 10; }

}  // namespace

#ifndef TANDEM_EMU_UCONTEXT
// Saves what the x86-64 calling convention lets a function expect to survive a call, swaps stacks
// and restores. The floating-point control words are those of the OS thread in every fiber.
extern "C" void tandem_emu_switch(void** save, void* load);
extern "C" void tandem_emu_start();
asm(R"(
.text
.globl tandem_emu_switch
.type tandem_emu_switch, @function
tandem_emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tandem_emu_switch, .-tandem_emu_switch
.globl tandem_emu_start
.type tandem_emu_start, @function
tandem_emu_start:
  movq %r12, %rdi
  jmp *%r13
.size tandem_emu_start, .-tandem_emu_start
)");
#endif

Fiber::Fiber() {
  if (UnderTsan()) tsan_fiber_ = __tsan_get_current_fiber();
}

Fiber::Fiber(void (*entry)(void*), void* argument) : entry_(entry), argument_(argument) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size_ = StackBytes();
  mapping_size_ = size_ + page;
  void* mapping = mmap(nullptr, mapping_size_, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (mapping == MAP_FAILED || mprotect(mapping, page, PROT_NONE) != 0) {
    std::perror("kernels/emu: no memory for the stack of an emulated thread");
    std::abort();
  }
  mapping_ = static_cast<char*>(mapping);
  bottom_ = mapping_ + page;
  if (UnderTsan()) tsan_fiber_ = __tsan_create_fiber(0);
#ifdef TANDEM_EMU_UCONTEXT
  getcontext(&context_);
  context_.uc_stack.ss_sp = mapping_ + page;
  context_.uc_stack.ss_size = size_;
  context_.uc_link = nullptr;
  const auto self = reinterpret_cast<uintptr_t>(this);
  makecontext(&context_, reinterpret_cast<void (*)()>(&Fiber::UcontextStart), 2,
              static_cast<unsigned>(uint64_t{self} >> 32), static_cast<unsigned>(self));
#else
  // As if tandem_emu_switch had been called from the first instruction of tandem_emu_start, with
  // the argument in r12 and the function in r13; above it a return address of zero ends the stack.
  auto** top = reinterpret_cast<void**>(mapping_ + mapping_size_);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&tandem_emu_start);
  *--top = nullptr;  // rbp
  *--top = nullptr;  // rbx
  *--top = this;     // r12
  *--top = reinterpret_cast<void*>(&Fiber::Start);
  *--top = nullptr;  // r14
  *--top = nullptr;  // r15
  stack_pointer_ = top;
#endif
}

Fiber::~Fiber() {
  if (mapping_ == nullptr) return;
  if (UnderTsan()) __tsan_destroy_fiber(tsan_fiber_);
  // Frames that were never left keep their redzones; the next mapping here must not inherit them.
  if (UnderAsan()) __asan_unpoison_memory_region(mapping_, mapping_size_);
  munmap(mapping_, mapping_size_);
}

void Fiber::Start(Fiber* self) {
  self->Arrived();
  self->entry_(self->argument_);
  std::abort();  // entry_ promised not to return
}

#ifdef TANDEM_EMU_UCONTEXT
void Fiber::UcontextStart(unsigned high, unsigned low) {
  Start(reinterpret_cast<Fiber*>(static_cast<uintptr_t>(uint64_t{high} << 32 | low)));
}
#endif

void Fiber::Arrived() {
  if (UnderAsan()) {
    __sanitizer_finish_switch_fiber(fake_stack_, &came_from_->bottom_, &came_from_->size_);
  }
}

void Fiber::Switch(Fiber& from, Fiber& to) {
  to.came_from_ = &from;
  if (UnderAsan()) __sanitizer_start_switch_fiber(&from.fake_stack_, to.bottom_, to.size_);
  if (UnderTsan()) __tsan_switch_to_fiber(to.tsan_fiber_, kNoSync);
#ifdef TANDEM_EMU_UCONTEXT
  swapcontext(&from.context_, &to.context_);
#else
  tandem_emu_switch(&from.stack_pointer_, to.stack_pointer_);
#endif
  from.Arrived();
}

void Fiber::ReleaseFor(void* tag, Fiber& current) {
  if (!UnderTsan()) return;
  __tsan_switch_to_fiber(tsan_fiber_, kNoSync);
  __tsan_release(tag);
  __tsan_switch_to_fiber(current.tsan_fiber_, kNoSync);
}

}  // namespace tandem::kernels::emu

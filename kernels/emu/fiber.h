// A stack to run a function on, and the switch from one such stack to another.
//
// x86-64 switches in a few instructions; other machines use ucontext, about ten times slower.
// AddressSanitizer and ThreadSanitizer are told of every switch.
#pragma once

#include <cstddef>

#include "kernels/emu/sanitizers.h"

#if !defined(__x86_64__) && !defined(TANDEM_EMU_UCONTEXT)
#define TANDEM_EMU_UCONTEXT
#endif
#ifdef TANDEM_EMU_UCONTEXT
#include <ucontext.h>
#endif

namespace tandem::kernels::emu {

class Fiber {
 public:
  // The stack that the calling OS thread runs on.
  Fiber();
  // A stack of its own, with a guard page below. The first switch to it calls entry(argument),
  // which must not return. Aborts when the system has no memory for it.
  Fiber(void (*entry)(void*), void* argument);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Leaves `from`, on which the caller runs, and continues `to`. Returns when somebody switches
  // back. Both belong to one OS thread while a switch between them is outstanding.
  static void Switch(Fiber& from, Fiber& to);

  // Release(tag) of sanitizers.h in the name of code that ran on this fiber; `current` calls.
  void ReleaseFor(void* tag, Fiber& current);

 private:
  static void Start(Fiber* self);
  void Arrived();  // first thing on the new stack after every switch
#ifdef TANDEM_EMU_UCONTEXT
  static void UcontextStart(unsigned high, unsigned low);
  ucontext_t context_;
#else
  void* stack_pointer_ = nullptr;
#endif
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  char* mapping_ = nullptr;  // guard page, then the stack
  size_t mapping_size_ = 0;
  const void* bottom_ = nullptr;  // bounds for AddressSanitizer
  size_t size_ = 0;
  void* fake_stack_ = nullptr;
  void* tsan_fiber_ = nullptr;
  Fiber* came_from_ = nullptr;
};

}  // namespace tandem::kernels::emu

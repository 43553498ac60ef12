// What AddressSanitizer and ThreadSanitizer must be told about fibers.
//
// The runtimes' entry points are weak: in a build without the sanitizer they are null and the calls
// below do nothing. So the emulator needs no macro that could disagree with how kernels were built.
#pragma once

#include <cstddef>

extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* saved, const void** bottom, size_t* size);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* begin, size_t size);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_destroy_fiber(void* fiber);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* tag);
[[gnu::weak]] void __tsan_release(void* tag);
[[gnu::weak]] void AnnotateIgnoreWritesBegin(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreWritesEnd(const char* file, int line);
}

namespace tandem::kernels::emu {

inline bool UnderAsan() { return __sanitizer_start_switch_fiber != nullptr; }
inline bool UnderTsan() { return __tsan_create_fiber != nullptr; }

// Happens-before: what precedes Release(tag) precedes what follows Acquire(tag).
inline void Release(void* tag) {
  if (UnderTsan()) __tsan_release(tag);
}
inline void Acquire(void* tag) {
  if (UnderTsan()) __tsan_acquire(tag);
}

// While one lives, memory that this thread allocates, fills and frees counts as untouched: shared
// memory of one block must not look ordered or racing with that of the next.
class UntouchedMemory {
 public:
  UntouchedMemory() {
    if (AnnotateIgnoreWritesBegin != nullptr) AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~UntouchedMemory() {
    if (AnnotateIgnoreWritesEnd != nullptr) AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  }
  UntouchedMemory(const UntouchedMemory&) = delete;
  UntouchedMemory& operator=(const UntouchedMemory&) = delete;
};

}  // namespace tandem::kernels::emu

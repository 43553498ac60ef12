// What an emulated CUDA thread can ask for: who it is, barriers, exchanges within its warp, matrix
// instructions, shared memory, asynchronous copies. kernels/cuda/kport*.h wraps all of it.
//
// Errors    A broken rule (divergent barrier, wrong mask, ...) ends the launch; the message names
//           the source line of the caller (stream.h, TakeError). The call then never returns.
// Memory    Only barriers and WarpBarrier order memory between threads. Shuffles, votes and matrix
//           instructions do not, as on the device, and ThreadSanitizer is told so.
// Source    fragment layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16", "ldmatrix",
// "movmatrix".
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/emu/vector_types.h"

namespace tandem::kernels::emu {

// Where a wrapper was called. The builtins must be default arguments of a constructor: as members
// of a braced default argument GCC 12 gives them the line of the declaration.
struct Site {
  const char* file;
  int line;
  constexpr Site(const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : file(file), line(line) {}
};

struct ThreadView {
  uint3 thread_idx;
  uint3 block_idx;
  uint3 block_dim;
  uint3 grid_dim;
};

// Of the running thread; null outside kernels.
extern constinit thread_local const ThreadView* current_view;

// Every thread of the block arrives at the same line before any passes. Returns the number of
// threads whose predicate was not zero.
int BlockBarrier(const char* name, int predicate, Site site);

// The lanes of `mask` meet; memory written before is visible behind.
void WarpBarrier(uint32_t mask, Site site);

enum class ShuffleKind { kIndex, kUp, kDown, kXor };

// Lanes exchange 64-bit values within groups of `width` lanes (a power of two up to 32).
uint64_t Shuffle(ShuffleKind kind, uint32_t mask, uint64_t value, int operand, int width,
                 Site site);

// Bit l is set where lane l of the mask voted true.
uint32_t Ballot(uint32_t mask, bool vote, Site site);

enum class OperandType { kBf16, kF16 };

// acc[16, 8] += A[16, 16] B[16, 8] over the fragments of a full warp: products and sums in f32, k
// ascending from 0, acc added last.
void Mma16816(OperandType type, float* acc, const uint32_t* a, const uint32_t* b, Site site);

// `matrices` (1, 2 or 4) 8x8 tiles of 16-bit values; lane 8m + r gives the address of row r of tile
// m, 16-byte aligned. out[m] receives the lane's two values of tile m.
void LoadMatrices(int matrices, bool transposed, uint32_t* out, const void* row, Site site);

// Transposes the 8x8 tile of 16-bit values that the warp holds.
uint32_t TransposeMatrix(uint32_t values, Site site);

// An asynchronous copy of 4, 8 or 16 bytes to shared memory; `src` null stands for zeros. The
// caller fills the destination with 0xFF when it issues one and moves the bytes when it takes it
// back. A thread that returns with copies under way is an error.
struct Copy {
  void* dst;
  const void* src;
  int bytes;
  Site site;
};
void IssueCopy(const Copy& copy);
void CommitCopies();
// The oldest copy that waiting for all committed groups but the newest ones covers; false when none
// is left.
bool TakeCopy(int newest_groups_left, Copy* copy);

// The block's memory for one K_SHARED declaration, identified by `key`; 0xFF at block start.
void* StaticShared(const void* key, size_t bytes, size_t alignment);
void* DynamicShared();

// Bytes of global memory that the wrappers' loads and stores asked for.
void CountRead(size_t bytes);
void CountWrite(size_t bytes);

// Ends the launch with "file:line: message".
[[noreturn]] void FailAt(Site site, const char* message);

}  // namespace tandem::kernels::emu

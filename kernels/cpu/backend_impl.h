// What the operations of the CPU backend share: the thread team and memory to work in.
//
// Not here  instruction-set files (*_avx2.cc, *_avx512*.cc) do not include this: they see raw
//           pointers only, so that no inline function of a shared header is compiled with their
//           flags.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/experts.h"
#include "kernels/cpu/thread_team.h"
#include "kernels/ops.h"

namespace tandem::kernels {

// Memory that grows to the largest request ever made and keeps that size. 64-byte aligned; requests
// of 2 MiB and more are aligned to 2 MiB and ask for huge pages.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // At least `bytes`, contents undefined; valid until the next Reserve.
  std::byte* Reserve(size_t bytes);

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

struct CpuBackend {
  CpuBackend(int threads, std::span<const int> cpus) : team(threads, cpus) {}

  Ops ops;
  CpuIsa isa = CpuIsa::kRef;
  bool bf16_operands = true;  // products round x to bf16 where the level can (avx512bf16)
  ThreadTeam team;
  Scratch panels;         // product.cc: activations packed for broadcasting
  Scratch partials;       // product.cc: sums of a task, per thread
  Scratch hidden;         // experts.cc: values between its two products
  ExpertScratch experts;  // experts.cc: who goes where
  Scratch attention;      // attention.cc
};

inline CpuBackend& BackendOf(void* backend) { return *static_cast<CpuBackend*>(backend); }

}  // namespace tandem::kernels

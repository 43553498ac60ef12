// Walks each run of samples as long as what was drawn is what the next row was fed.
//
// Shapes    drawn, finite [samples], fed [rows], runs [count], results [count] each; int32.
// Launch    grid = ceil(count / 128), block = 128: a thread per run, whose loop is as long as its
//           draft.
// Order     integers; a run does not see the others.
// Traffic   per run 16 B, up to 12 B per sample, 20 B written.
// Roofline  of no interest: launch latency.
// Truth     Runner::State::FindRuns, SampleRows (engine/runner.cc); tests/emu/verify_test.cc.
#include "kernels/cuda/verify.h"

namespace tandem::kernels::K_WORLD {

constexpr int kVerifyThreads = 128;

__global__ void __launch_bounds__(kVerifyThreads) VerifyKernel(VerifyArgs args) {
  const int index = static_cast<int>(blockIdx.x * kVerifyThreads + threadIdx.x);
  if (index >= args.count) return;
  const VerifyRun run = ld_nc(args.runs + index);
  int accepted = 0;
  int32_t token, finite;
  for (;; ++accepted) {
    token = ld_nc(args.drawn + run.first_sample + accepted);
    finite = ld_nc(args.finite + run.first_sample + accepted);
    if (finite == 0 || accepted + 1 >= run.samples) break;
    if (ld_nc(args.fed + run.first_row + accepted + 1) != token) break;
  }
  st(args.accepted + index, accepted);
  st(args.token + index, finite != 0 ? token : -1);
  st(args.last_sample + index, run.first_sample + accepted);
  st(args.hidden_row + index, run.first_hidden + accepted);
  st(args.token_finite + index, finite);
}

void Verify(const VerifyArgs& args, Stream stream) {
  if (args.count == 0) return;
  launch(VerifyKernel, (args.count + kVerifyThreads - 1) / kVerifyThreads, kVerifyThreads, 0,
         stream, args);
}

}  // namespace tandem::kernels::K_WORLD

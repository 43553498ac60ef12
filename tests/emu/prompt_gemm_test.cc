// Who multiplies prompt rows: a stand-in for cuBLASLt, loaded as the library would be.
#include "kernels/cuda/prompt_gemm.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/w_linear_pack.h"
#include "tests/emu/bf16_rows.h"
#include "tests/emu/code_matrix.h"
#include "tests/emu/fake_cublaslt.h"

namespace tandem::kernels {
namespace {

using cuda_emu::Device;
using cuda_emu::DeviceMemory;
using cuda_emu::DeviceStream;
using cuda_emu::PromptGemm;
using cuda_emu::PromptGemmOptions;
using testing::HasSubstr;

constexpr int kOut = 24, kIn = 40, kMaxRows = 40;

class PromptGemmTest : public testing::Test {
 protected:
  void SetUp() override {
    // The stand-in multiplies at once: so must everything else.
    Open({.runs_at_once = true});
    w_ = RandomBf16(kOut * kIn, 1, 0.2f);
    options_ = {.libraries = {TANDEM_FAKE_CUBLASLT},
                .matrices = {{kOut, kIn}, {kOut, kIn}},
                .max_rows = kMaxRows,
                .workspace_bytes = 4096};
    // Stays loaded, so that the product loads the same one.
    void* library = dlopen(TANDEM_FAKE_CUBLASLT, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    set_ = reinterpret_cast<FakeSet>(dlsym(library, "fake_cublaslt_set"));
    products_ = reinterpret_cast<FakeProducts>(dlsym(library, "fake_cublaslt_products"));
    ASSERT_TRUE(set_ != nullptr && products_ != nullptr);
    set_(kFakeNone);
  }

  void Open(const cuda_emu::Machine& machine) {
    stream_.reset();
    absl::StatusOr<Device> device = Device::Open(0, machine);
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = std::make_unique<Device>(*std::move(device));
    absl::StatusOr<DeviceStream> stream = device_->MakeStream();
    ASSERT_TRUE(stream.ok()) << stream.status();
    stream_ = std::make_unique<DeviceStream>(*std::move(stream));
  }

  PromptGemm OpenGemm() { return PromptGemm::Open(options_, *device_, stream_.get()); }

  // Rows through `gemm`, and whether their bits are those of PLinear.
  bool EqualsOwnKernel(PromptGemm& gemm, int rows) {
    const std::vector<Bf16> x = RandomBf16(rows * kIn, 2);
    std::vector<float> y(rows * kOut, 77.0f), own(rows * kOut);
    cuda_emu::WLinearArgs args = {.x = x.data(),
                                  .x_stride = kIn,
                                  .w = w_.data(),
                                  .y_f32 = y.data(),
                                  .y_stride = kOut,
                                  .rows = rows,
                                  .in = kIn,
                                  .out = kOut};
    const absl::Status done = gemm.Linear(args, stream_->get());
    EXPECT_TRUE(done.ok()) << done;
    args.y_f32 = own.data();
    cuda_emu::PLinear(args, stream_->get());
    EXPECT_TRUE(stream_->Synchronize().ok());
    EXPECT_LE(RelativeError(y, own), 1e-6);
    return SameBits(y, own);
  }

  std::vector<Bf16> w_;
  PromptGemmOptions options_;
  FakeSet set_ = nullptr;
  FakeProducts products_ = nullptr;
  std::unique_ptr<Device> device_;
  std::unique_ptr<DeviceStream> stream_;
};

TEST_F(PromptGemmTest, TheFirstAlgorithmThatKeepsARowsBitsMultiplies) {
  // Given a library whose first algorithm does not keep them, and whose second one does.
  PromptGemm gemm = OpenGemm();
  EXPECT_EQ(gemm.description(), "cuBLASLt 13.1.2 for 1 of 1 shapes");
  EXPECT_EQ(gemm.planned(), 1);
  // When rows are multiplied, then by the library, few as many.
  set_(kFakeNone);
  for (const int rows : {1, 5, kMaxRows}) EXPECT_FALSE(EqualsOwnKernel(gemm, rows)) << rows;
  EXPECT_EQ(products_(), 3);
}

TEST_F(PromptGemmTest, ShapesWithoutAPlanAndBf16ResultsAreTheOwnKernels) {
  PromptGemm gemm = OpenGemm();
  set_(kFakeNone);
  const std::vector<Bf16> x = RandomBf16(3 * kIn, 2);
  std::vector<Bf16> y(3 * kOut);
  std::vector<float> y_f32(3 * kOut);
  cuda_emu::WLinearArgs args = {.x = x.data(),
                                .x_stride = kIn,
                                .w = w_.data(),
                                .y = y.data(),
                                .y_stride = kOut,
                                .rows = 3,
                                .in = kIn,
                                .out = kOut};
  EXPECT_TRUE(gemm.Linear(args, stream_->get()).ok());
  args.y = nullptr;
  args.y_f32 = y_f32.data();
  args.out = kOut - 8;
  EXPECT_TRUE(gemm.Linear(args, stream_->get()).ok());
  EXPECT_EQ(products_(), 0);
  EXPECT_TRUE(stream_->Synchronize().ok());
  EXPECT_EQ(ToBf16(y_f32[0]).bits, y[0].bits);
}

TEST_F(PromptGemmTest, GegluOfTheLibrarysProductsGoesInPartsThatFit) {
  // Given room for the gate and up values of 7 rows.
  constexpr int kWidth = 40, kRows = 17;
  const int out = GateUpRows(kWidth);
  options_.matrices = {{out, kIn, /*geglu=*/true}};
  options_.geglu_bytes = 7 * out * sizeof(float) + 4;
  PromptGemm gemm = OpenGemm();
  ASSERT_EQ(gemm.planned(), 1);
  set_(kFakeNone);
  const std::vector<Bf16> x = RandomBf16(kRows * kIn, 2);
  const std::vector<Bf16> w = RandomBf16(out * kIn, 3, 0.2f);
  const int y_stride = kWidth + 8;
  std::vector<Bf16> y(kRows * y_stride, ToBf16(77.0f)), own = y;
  cuda_emu::WLinearGegluArgs args = {.x = x.data(),
                                     .x_stride = kIn,
                                     .w = w.data(),
                                     .y = y.data(),
                                     .y_stride = y_stride,
                                     .rows = kRows,
                                     .in = kIn,
                                     .width = kWidth};
  // When 17 rows are asked for, then they come from three products.
  EXPECT_TRUE(gemm.Geglu(args, stream_->get()).ok());
  EXPECT_EQ(products_(), 3);
  args.y = own.data();
  cuda_emu::PLinearGeglu(args, stream_->get());
  ASSERT_TRUE(stream_->Synchronize().ok());
  EXPECT_LE(RelativeError(Widened(y), Widened(own)), 4e-3);
}

TEST_F(PromptGemmTest, WeightsOfCodesAreExpandedForTheLibrary) {
  const int rows = 6;
  const CodeMatrix m = RandomCodes(WeightFormat::kInt4, kOut, kIn, 4);
  PromptGemm gemm = OpenGemm();
  set_(kFakeNone);
  const std::vector<Bf16> x = RandomBf16(rows * kIn, 2);
  std::vector<Bf16> scratch(cuda_emu::PromptScratchMin(kIn));
  std::vector<float> y(rows * kOut, 77.0f), own(rows * kOut);
  cuda_emu::WLinearCodesArgs args = {.x = x.data(),
                                     .x_stride = kIn,
                                     .format = m.format,
                                     .codes = m.packed.data(),
                                     .scales = m.packed_scales.data(),
                                     .y_f32 = y.data(),
                                     .y_stride = kOut,
                                     .rows = rows,
                                     .in = kIn,
                                     .out = kOut};
  EXPECT_TRUE(gemm.LinearCodes(args, {scratch.data(), scratch.size()}, stream_->get()).ok());
  EXPECT_EQ(products_(), 1);
  args.y_f32 = own.data();
  cuda_emu::PLinearCodes(args, {scratch.data(), scratch.size()}, stream_->get());
  ASSERT_TRUE(stream_->Synchronize().ok());
  EXPECT_LE(RelativeError(y, own), 1e-6);
  EXPECT_FALSE(SameBits(y, own));
}

TEST_F(PromptGemmTest, WithoutALibraryTheOwnKernelsMultiply) {
  options_.libraries.clear();
  PromptGemm gemm = OpenGemm();
  EXPECT_EQ(gemm.description(), "own kernels");
  EXPECT_TRUE(EqualsOwnKernel(gemm, 5));
  EXPECT_EQ(products_(), 0);
}

struct FaultCase {
  FakeFault fault;
  const char* description;
};

class PromptGemmFaultTest : public PromptGemmTest, public testing::WithParamInterface<FaultCase> {};

TEST_P(PromptGemmFaultTest, LeavesTheOwnKernelsAndOneReason) {
  set_(GetParam().fault);
  PromptGemm gemm = OpenGemm();
  EXPECT_EQ(gemm.planned(), 0);
  EXPECT_THAT(gemm.description(), HasSubstr(GetParam().description));
  EXPECT_THAT(gemm.description(), HasSubstr("own kernels"));
  EXPECT_EQ(gemm.description().find('\n'), std::string::npos);
  set_(kFakeNone);
  EXPECT_TRUE(EqualsOwnKernel(gemm, 20));
  EXPECT_EQ(products_(), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Faults, PromptGemmFaultTest,
    testing::Values(
        FaultCase{kFakeNoStart, "cuBLASLt 13.1.2 does not start: cublasLtCreate gave status 1"},
        FaultCase{kFakeOldVersion, "cuBLASLt 12.3.4 is of another major version than 13"},
        FaultCase{kFakeNoAlgorithm, "24x40 (cuBLASLt 13.1.2 has no algorithm"},
        FaultCase{kFakeRowsMatter, "24x40 (a row's bits depend on the number of rows)"},
        FaultCase{kFakeWrongValues, "24x40 (its values are not those of the own kernel)"},
        FaultCase{kFakeNotAllRows, "24x40 (not every number of rows can be multiplied)"},
        FaultCase{kFakeRefusesToRun, "24x40 (cuBLASLt 13.1.2 refused 40 rows"}),
    [](const testing::TestParamInfo<FaultCase>& info) {
      return "Fault" + std::to_string(info.param.fault);
    });

TEST_F(PromptGemmTest, ALibraryThatCanNotBeLoadedIsNamedWithTheWayOut) {
  options_.libraries = {"/nonexistent/libcublasLt.so.13"};
  PromptGemm gemm = OpenGemm();
  EXPECT_EQ(gemm.description(),
            "own kernels; libcublasLt.so.13: not found; TANDEM_CUDA_LIB_DIR may name its folder");
  EXPECT_TRUE(EqualsOwnKernel(gemm, 5));
}

TEST_F(PromptGemmTest, ABrokenLibraryIsNamedWithItsFault) {
  const std::string path = testing::TempDir() + "/libcublasLt.so.13";
  std::ofstream(path) << "not a library";
  options_.libraries = {path, "/nonexistent/libcublasLt.so.13"};
  EXPECT_THAT(OpenGemm().description(), HasSubstr(path));
}

TEST_F(PromptGemmTest, ALibraryOfSomethingElseLacksAFunction) {
  options_.libraries = {"libm.so.6"};
  EXPECT_THAT(OpenGemm().description(), HasSubstr("has no cublasLtGetVersion"));
}

TEST_F(PromptGemmTest, WithoutMemoryForTheTestTheOwnKernelsMultiply) {
  for (int n = 1; n <= 5; ++n) {
    Open({.failing_allocation = n, .runs_at_once = true});
    PromptGemm gemm = OpenGemm();
    EXPECT_EQ(gemm.planned(), 0) << n;
    EXPECT_THAT(gemm.description(), HasSubstr("own kernels; ")) << n;
    EXPECT_TRUE(EqualsOwnKernel(gemm, 3));
  }
}

TEST_F(PromptGemmTest, ARefusalAtWorkIsAnError) {
  PromptGemm gemm = OpenGemm();
  set_(kFakeRefusesToRun);
  const std::vector<Bf16> x = RandomBf16(2 * kIn, 2);
  std::vector<float> y(2 * kOut);
  const absl::Status refused = gemm.Linear({.x = x.data(),
                                            .x_stride = kIn,
                                            .w = w_.data(),
                                            .y_f32 = y.data(),
                                            .y_stride = kOut,
                                            .rows = 2,
                                            .in = kIn,
                                            .out = kOut},
                                           stream_->get());
  EXPECT_EQ(refused.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(refused.message(), "cuBLASLt 13.1.2 refused 2 rows of 24x40 with status 15");
}

TEST(CublasLtPathsTest, TheOwnFolderComesFirstThenTheLoaderThenTheToolkit) {
  EXPECT_THAT(CublasLtPaths({.own = "/own", .cuda_home = "/cuda", .python_prefix = "/py"}),
              testing::ElementsAre("/own/libcublasLt.so.13", "libcublasLt.so.13",
                                   "/cuda/lib64/libcublasLt.so.13",
                                   "/usr/local/cuda/lib64/libcublasLt.so.13",
                                   "/py/nvidia/cu13/lib/libcublasLt.so.13",
                                   "/py/nvidia/cublas/lib/libcublasLt.so.13"));
  EXPECT_THAT(CublasLtPaths({}),
              testing::ElementsAre("libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13"));
}

}  // namespace
}  // namespace tandem::kernels

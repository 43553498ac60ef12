// What a stand-in for cuBLASLt is told by the test that loads it.
#pragma once

enum FakeFault {
  kFakeNone = 0,
  kFakeNoStart,       // cublasLtCreate fails
  kFakeOldVersion,    // of major version 12
  kFakeNoAlgorithm,   // the heuristics know none
  kFakeRowsMatter,    // every algorithm's bits depend on the number of rows
  kFakeWrongValues,   // every value is a hundredth too large
  kFakeNotAllRows,    // five rows can not be multiplied
  kFakeRefusesToRun,  // cublasLtMatmul fails
};

// Symbols "fake_cublaslt_set" and "fake_cublaslt_products" of the library.
using FakeSet = void (*)(FakeFault fault);
using FakeProducts = int (*)();  // cublasLtMatmul calls since the last fake_cublaslt_set

// What the processor can do, and the floating-point mode that kernels run in.
#pragma once

#include <functional>

namespace mone {

struct CpuFeatures {
  bool avx2 = false;        // AVX2, FMA, F16C
  bool avx512 = false;      // AVX-512 F, BW, DQ, VL
  bool avx512bf16 = false;  // VDPBF16PS
  bool amx = false;         // AMX tiles with bf16, permitted by the operating system
};

/** Detected once; asks the operating system for permission to use AMX tiles. */
const CpuFeatures& cpuFeatures();

/** Calls f; false if it met an instruction that the processor refuses. On one thread at a time. */
bool survivesIllegalInstruction(const std::function<void()>& f);

/** Treats subnormal numbers as zero on this thread: they are up to 90 times slower and never matter here. */
void flushDenormals();

/** flushDenormals for the life of the object; JavaScript's own arithmetic on this thread stays as it was. */
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();

 private:
  unsigned saved_;
};

}  // namespace mone

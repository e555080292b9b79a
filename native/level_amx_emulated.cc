// Instruction level amxEmulated: level amx with its six tile instructions in plain C++, for tests on machines
// without them. See level.inc.
#include "kernel.h"
#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2")
#define MONE_LEVEL amxEmulated
#define MONE_LANES 16
#define MONE_BF16 3
#include "level.inc"
#endif

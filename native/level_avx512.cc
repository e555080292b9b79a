// Instruction level avx512: see level.inc.
#include "kernel.h"
#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2")
#define MONE_LEVEL avx512
#define MONE_LANES 16
#define MONE_BF16 0
#include "level.inc"
#endif

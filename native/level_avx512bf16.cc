// Instruction level avx512bf16: see level.inc.
#include "kernel.h"
#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2")
#define MONE_LEVEL avx512bf16
#define MONE_LANES 16
#define MONE_BF16 1
#include "level.inc"
#endif

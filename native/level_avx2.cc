// Instruction level avx2: see level.inc.
#include "kernel.h"
#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#define MONE_LEVEL avx2
#define MONE_LANES 8
#define MONE_BF16 0
#include "level.inc"
#endif

// Instruction level amx: see level.inc.
#include "kernel.h"
#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC target("amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2")
#define MONE_LEVEL amx
#define MONE_LANES 16
#define MONE_BF16 2
#include "level.inc"
#endif

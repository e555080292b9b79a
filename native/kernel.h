// How a kernel is written in C++. A file src/kernels/X.cc declares the interface once, in the order of X.ts:
//
//     #define scale_INTERFACE(B, P) B(in, f32, x) B(out, f32, y) P(int, n) P(float, factor)
//     KERNEL(scale) { for (int64_t i = 0; i < a.n; i++) a.y[i] = a.x[i] * float(a.factor); }
//
// From that the macros make the argument struct (8 bytes a field: pointers, then int64 and double), and the
// signature line that the TypeScript side compares with its own. The files are compiled once per instruction
// level, inside a namespace of that level (level.inc); they use the vectors of vector.h, rarely intrinsics.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "parallel.h"

namespace mone {

struct KernelEntry {
  const char* signature;
  void (*run)(const void* args);
};

/** a / b, rounded up; both positive or a zero. */
constexpr int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

/** One instruction level: the same kernels, compiled for other hardware. */
struct Level {
  const char* name;
  bool nativeBf16;  // multiplies bf16 in hardware, so that bf16 pays
  const KernelEntry* kernels;
  size_t count;
  bool (*worksHere)();  // a trial of its rarest instructions; null if there is nothing to try
};

}  // namespace mone

#define MONE_TYPE_f32 float
#define MONE_TYPE_u32 uint32_t
#define MONE_TYPE_bf16 uint16_t
#define MONE_TYPE_i8 int8_t
#define MONE_CONST_in const
#define MONE_CONST_out
#define MONE_CONST_inout
#define MONE_PARAM_int int64_t
#define MONE_PARAM_float double

#define MONE_BUFFER_FIELD(access, type, name) MONE_CONST_##access MONE_TYPE_##type* name;
#define MONE_PARAM_FIELD(type, name) MONE_PARAM_##type name;
#define MONE_BUFFER_TEXT(access, type, name) " " #access " " #type " " #name ";"
#define MONE_PARAM_TEXT(type, name) " " #type " " #name ";"

#define KERNEL(name)                                                                            \
  struct name##Args {                                                                           \
    name##_INTERFACE(MONE_BUFFER_FIELD, MONE_PARAM_FIELD)                                       \
  };                                                                                            \
  static const char name##Signature[] = #name ":" name##_INTERFACE(MONE_BUFFER_TEXT, MONE_PARAM_TEXT); \
  static void name([[maybe_unused]] const name##Args& a)

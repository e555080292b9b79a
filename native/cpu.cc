#include "cpu.h"

#include <csetjmp>
#include <csignal>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mone {
namespace {

#if defined(__x86_64__)
unsigned long long enabledState() {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<unsigned long long>(high) << 32) | low;
}

// Linux grants the 8 KB of tile state only on request (since 5.16).
bool requestTiles() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

CpuFeatures detect() {
  CpuFeatures features;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return features;
  const bool osxsave = c & (1u << 27);
  const bool fma = c & (1u << 12), f16c = c & (1u << 29);
  if (!osxsave) return features;
  const unsigned long long state = enabledState();
  const bool ymm = (state & 0x6) == 0x6, zmm = (state & 0xe6) == 0xe6, tiles = (state & 0x60000) == 0x60000;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
  features.avx2 = ymm && fma && f16c && (b & (1u << 5));
  const unsigned f_dq_bw_vl = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
  features.avx512 = features.avx2 && zmm && (b & f_dq_bw_vl) == f_dq_bw_vl;
  const bool amxTile = d & (1u << 24), amxBf16 = d & (1u << 22);
  unsigned a1 = 0;
  if (__get_cpuid_count(7, 1, &a1, &b, &c, &d)) features.avx512bf16 = features.avx512 && (a1 & (1u << 5));
  features.amx = features.avx512bf16 && tiles && amxTile && amxBf16 && requestTiles();
  return features;
}
#else
CpuFeatures detect() { return {}; }
#endif

}  // namespace

const CpuFeatures& cpuFeatures() {
  static const CpuFeatures features = detect();
  return features;
}

static sigjmp_buf beforeIllegalInstruction;

bool survivesIllegalInstruction(const std::function<void()>& f) {
  struct sigaction refuse = {}, previous;
  refuse.sa_handler = [](int) { siglongjmp(beforeIllegalInstruction, 1); };
  sigaction(SIGILL, &refuse, &previous);
  const bool survived = sigsetjmp(beforeIllegalInstruction, 1) == 0;
  if (survived) f();
  sigaction(SIGILL, &previous, nullptr);
  return survived;
}

#if defined(__x86_64__)
constexpr unsigned kFlush = 0x8040;  // flush to zero, denormals are zero
void flushDenormals() { _mm_setcsr(_mm_getcsr() | kFlush); }
FlushDenormals::FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | kFlush); }
FlushDenormals::~FlushDenormals() { _mm_setcsr(saved_); }
#else
void flushDenormals() {}
FlushDenormals::FlushDenormals() : saved_(0) {}
FlushDenormals::~FlushDenormals() { (void)saved_; }
#endif

}  // namespace mone

#include "levels.h"

#include "cpu.h"

namespace mone {
namespace portable { extern const Level level; }
#if defined(__x86_64__)
namespace avx2 { extern const Level level; }
namespace avx512 { extern const Level level; }
namespace avx512bf16 { extern const Level level; }
namespace amx { extern const Level level; }
namespace amxEmulated { extern const Level level; }
#endif

namespace {

void add(Levels& list, const Level& level) {
  bool works = true;
  const char* problem = " gives wrong results on this processor; it is left out.";
  if (level.worksHere && !survivesIllegalInstruction([&] { works = level.worksHere(); })) {
    works = false;
    problem = " has an instruction that this processor refuses though it reports it; it is left out.";
  }
  if (works) list.usable.push_back(&level);
  else list.problems.push_back(std::string("Instruction level ") + level.name + problem);
}

}  // namespace

const Levels& machineLevels() {
  static const Levels levels = [] {
    Levels list;
#if defined(__x86_64__)
    const CpuFeatures& cpu = cpuFeatures();
    if (cpu.amx) add(list, amx::level);
    if (cpu.avx512bf16) add(list, avx512bf16::level);
    if (cpu.avx512bf16) list.emulated.push_back(&amxEmulated::level);
    if (cpu.avx512) add(list, avx512::level);
    if (cpu.avx2) add(list, avx2::level);
#endif
    add(list, portable::level);
    return list;
  }();
  return levels;
}

const Level* levelAt(uint32_t number) {
  const Levels& levels = machineLevels();
  if (number < levels.usable.size()) return levels.usable[number];
  number -= uint32_t(levels.usable.size());
  return number < levels.emulated.size() ? levels.emulated[number] : nullptr;
}

}  // namespace mone

// The border to JavaScript. It exports
//   levels(emulated): names of the instruction levels that this machine can run, best first; with `emulated` also
//       those that are only for tests
//   problems(): one line for each level that the machine claims to have but fails to run
//   open(level, threads): chooses both; returns { signatures, nativeBf16 }
//   run(index, buffers, params): runs kernel `index` of the chosen level; buffers: array of typed arrays,
//       params: Float64Array. Types, counts and lengths are checked by the caller (src/backends/cpu.ts).
//   allocate(bytes): an ArrayBuffer of zeros, 64-byte aligned, on huge pages where the system has them
// Nothing of JavaScript is touched while a kernel runs.
#include <node_api.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cpu.h"
#include "kernel.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

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

struct Levels {
  std::vector<const Level*> usable;    // best first
  std::vector<const Level*> emulated;  // for tests
  std::vector<std::string> problems;

  void add(const Level& level) {
    bool works = true;
    const char* problem = " gives wrong results on this processor; it is left out.";
    if (level.worksHere && !survivesIllegalInstruction([&] { works = level.worksHere(); })) {
      works = false;
      problem = " has an instruction that this processor refuses though it reports it; it is left out.";
    }
    if (works) usable.push_back(&level);
    else problems.push_back(std::string("Instruction level ") + level.name + problem);
  }
};

/** What this machine can run, found out once. */
const Levels& machineLevels() {
  static const Levels levels = [] {
    Levels list;
#if defined(__x86_64__)
    const CpuFeatures& cpu = cpuFeatures();
    if (cpu.amx) list.add(amx::level);
    if (cpu.avx512bf16) list.add(avx512bf16::level);
    if (cpu.avx512bf16) list.emulated.push_back(&amxEmulated::level);
    if (cpu.avx512) list.add(avx512::level);
    if (cpu.avx2) list.add(avx2::level);
#endif
    list.add(portable::level);
    return list;
  }();
  return levels;
}

const Level* chosen = nullptr;

napi_value fail(napi_env env, const char* message) {
  napi_throw_error(env, nullptr, message);
  return nullptr;
}

napi_value strings(napi_env env, const std::vector<std::string>& list) {
  napi_value result;
  napi_create_array_with_length(env, list.size(), &result);
  for (size_t i = 0; i < list.size(); i++) {
    napi_value text;
    napi_create_string_utf8(env, list[i].c_str(), NAPI_AUTO_LENGTH, &text);
    napi_set_element(env, result, uint32_t(i), text);
  }
  return result;
}

napi_value levels(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  bool emulated;
  if (argc != 1 || napi_get_value_bool(env, argv[0], &emulated) != napi_ok)
    return fail(env, "levels(emulated: boolean)");
  std::vector<std::string> names;
  for (const Level* level : machineLevels().usable) names.push_back(level->name);
  if (emulated)
    for (const Level* level : machineLevels().emulated) names.push_back(level->name);
  return strings(env, names);
}

napi_value problems(napi_env env, napi_callback_info) { return strings(env, machineLevels().problems); }

napi_value open(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2];
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  char name[32];
  size_t length;
  int32_t count;
  if (argc != 2 || napi_get_value_string_utf8(env, argv[0], name, sizeof name, &length) != napi_ok ||
      napi_get_value_int32(env, argv[1], &count) != napi_ok)
    return fail(env, "open(level: string, threads: number)");
  const Level* found = nullptr;
  for (const auto& list : {machineLevels().usable, machineLevels().emulated})
    for (const Level* level : list)
      if (std::strcmp(level->name, name) == 0) found = level;
  if (!found) return fail(env, "this machine cannot run the instruction level asked for");
  chosen = found;
  setThreads(count);
  std::vector<std::string> signatures;
  for (size_t i = 0; i < found->count; i++) signatures.push_back(found->kernels[i].signature);
  napi_value result, bf16;
  napi_create_object(env, &result);
  napi_get_boolean(env, found->nativeBf16, &bf16);
  napi_set_named_property(env, result, "signatures", strings(env, signatures));
  napi_set_named_property(env, result, "nativeBf16", bf16);
  return result;
}

constexpr int kMaxBuffers = 16, kMaxParams = 16;

napi_value run(napi_env env, napi_callback_info info) {
  size_t argc = 3;
  napi_value argv[3];
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  uint32_t index, buffers;
  if (argc != 3 || !chosen || napi_get_value_uint32(env, argv[0], &index) != napi_ok || index >= chosen->count ||
      napi_get_array_length(env, argv[1], &buffers) != napi_ok || buffers > kMaxBuffers)
    return fail(env, "run(index, buffers, params) after open()");
  uint64_t words[kMaxBuffers + kMaxParams];
  for (uint32_t i = 0; i < buffers; i++) {
    napi_value element;
    void* data;
    if (napi_get_element(env, argv[1], i, &element) != napi_ok ||
        napi_get_typedarray_info(env, element, nullptr, nullptr, &data, nullptr, nullptr) != napi_ok)
      return fail(env, "run: a buffer is not a typed array");
    words[i] = reinterpret_cast<uintptr_t>(data);
  }
  size_t params;
  double* values;
  if (napi_get_typedarray_info(env, argv[2], nullptr, &params, reinterpret_cast<void**>(&values), nullptr, nullptr) !=
          napi_ok || params > kMaxParams)
    return fail(env, "run: params is not a Float64Array");
  // The signature says which parameters are integers: "... int m; float eps;" after the buffers.
  const char* at = chosen->kernels[index].signature;
  for (uint32_t i = 0; i <= buffers; i++) at = std::strchr(at, i == 0 ? ':' : ';') + 1;
  for (size_t i = 0; i < params; i++) {
    if (std::strncmp(at, " int ", 5) == 0) {
      const int64_t whole = int64_t(values[i]);
      std::memcpy(&words[buffers + i], &whole, 8);
    } else {
      std::memcpy(&words[buffers + i], &values[i], 8);
    }
    at = std::strchr(at, ';') + 1;
  }
  FlushDenormals mode;
  chosen->kernels[index].run(words);
  return nullptr;
}

struct Block {
  void* memory;
  size_t bytes;
};

void release(napi_env, void*, void* hint) {
  Block* block = static_cast<Block*>(hint);
#if defined(__linux__)
  munmap(block->memory, block->bytes);
#else
  std::free(block->memory);
#endif
  delete block;
}

napi_value allocate(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  double requested;
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  if (argc != 1 || napi_get_value_double(env, argv[0], &requested) != napi_ok || !(requested > 0))
    return fail(env, "allocate(bytes)");
  const size_t bytes = (size_t(requested) + 4095) & ~size_t(4095);
#if defined(__linux__)
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail(env, "out of memory");
  if (bytes >= (size_t(4) << 20)) madvise(memory, bytes, MADV_HUGEPAGE);
#else
  void* memory = std::aligned_alloc(4096, bytes);
  if (!memory) return fail(env, "out of memory");
  std::memset(memory, 0, bytes);
#endif
  Block* block = new Block{memory, bytes};
  napi_value result;
  // Electron-like runtimes refuse external memory; JavaScript's own then has to do.
  if (napi_create_external_arraybuffer(env, memory, size_t(requested), release, block, &result) != napi_ok) {
    release(env, nullptr, block);
    void* unused;
    if (napi_create_arraybuffer(env, size_t(requested), &unused, &result) != napi_ok) return fail(env, "out of memory");
  }
  return result;
}

napi_value init(napi_env env, napi_value exports) {
  const napi_property_descriptor properties[] = {
      {"levels", nullptr, levels, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"problems", nullptr, problems, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"open", nullptr, open, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"run", nullptr, run, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"allocate", nullptr, allocate, nullptr, nullptr, nullptr, napi_default, nullptr},
  };
  napi_define_properties(env, exports, sizeof(properties) / sizeof(properties[0]), properties);
  return exports;
}

}  // namespace
}  // namespace mone

NAPI_MODULE(mone, mone::init)

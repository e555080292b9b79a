// The border to JavaScript. It exports
//   levels(emulated): names of the instruction levels that this machine can run, best first; with `emulated` also
//       those that are only for tests
//   problems(): one line for each level that the machine claims to have but fails to run
//   open(level, threads): returns { handle, signatures, nativeBf16 }; the handle, a number, says both to later calls
//   run(handle, index, buffers, params): runs kernel `index` of a level; buffers: array of typed arrays,
//       params: Float64Array. Types, counts and lengths are checked by the caller (src/backends/cpu.ts).
//   program(handle, steps), replay(program): calls to make again, all in one; steps are { index, buffers, params }, or
//       { to, from } for a copy
//   map(path, offset, bytes): part of a file as an ArrayBuffer, without reading it
//   allocate(bytes): an ArrayBuffer of zeros, 64-byte aligned, on huge pages where the system has them
// Nothing of JavaScript is touched while a kernel runs. Nothing of a call is kept from one to the next, so backends of
// different levels, and worker threads, do not disturb each other.
#include <node_api.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cpu.h"
#include "levels.h"

#if defined(__linux__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace mone {
namespace {

/** What an open backend is. JavaScript holds it as one number, so that none of it is state of the process. */
struct Opened {
  const Level* level;
  int32_t threads;
};

constexpr uint32_t kMostLevels = 16;

bool readHandle(napi_env env, napi_value value, Opened& opened) {
  uint32_t handle;
  if (napi_get_value_uint32(env, value, &handle) != napi_ok) return false;
  opened = {levelAt(handle % kMostLevels), int32_t(handle / kMostLevels)};
  return opened.level && opened.threads > 0;
}

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
      napi_get_value_int32(env, argv[1], &count) != napi_ok || count < 1)
    return fail(env, "open(level: string, threads: number)");
  uint32_t number = 0;
  while (levelAt(number) && std::strcmp(levelAt(number)->name, name) != 0) number++;
  const Level* level = levelAt(number);
  if (!level) return fail(env, "this machine cannot run the instruction level asked for");
  reserveThreads(count);
  std::vector<std::string> signatures;
  for (size_t i = 0; i < level->count; i++) signatures.push_back(level->kernels[i].signature);
  napi_value result, handle, bf16;
  napi_create_object(env, &result);
  napi_create_uint32(env, uint32_t(count) * kMostLevels + number, &handle);
  napi_set_named_property(env, result, "handle", handle);
  napi_get_boolean(env, level->nativeBf16, &bf16);
  napi_set_named_property(env, result, "signatures", strings(env, signatures));
  napi_set_named_property(env, result, "nativeBf16", bf16);
  return result;
}

constexpr int kMaxBuffers = 16, kMaxParams = 16;

/** A kernel call with its arguments laid out as the kernel's Args; or, without a kernel, a copy. */
struct Call {
  void (*run)(const void* args);
  uint64_t words[kMaxBuffers + kMaxParams];
};

/** Where a typed array's elements lie, and how many bytes they take. */
bool readArray(napi_env env, napi_value value, void** data, size_t* bytes = nullptr) {
  napi_typedarray_type type;
  size_t length;
  if (napi_get_typedarray_info(env, value, &type, &length, data, nullptr, nullptr) != napi_ok) return false;
  if (bytes) {
    const bool one = type == napi_int8_array || type == napi_uint8_array || type == napi_uint8_clamped_array;
    const bool two = type == napi_int16_array || type == napi_uint16_array;
    const bool four = type == napi_int32_array || type == napi_uint32_array || type == napi_float32_array;
    *bytes = length * (one ? 1 : two ? 2 : four ? 4 : 8);
  }
  return true;
}

/** Fills `call` from an index, an array of typed arrays and a Float64Array; null, or what is wrong. */
const char* readCall(napi_env env, const Level& level, napi_value indexValue, napi_value arrays, napi_value values,
                     Call& call) {
  uint32_t index, buffers;
  if (napi_get_value_uint32(env, indexValue, &index) != napi_ok || index >= level.count ||
      napi_get_array_length(env, arrays, &buffers) != napi_ok || buffers > kMaxBuffers)
    return "a call needs a kernel's index, buffers and params";
  for (uint32_t i = 0; i < buffers; i++) {
    napi_value element;
    void* data;
    if (napi_get_element(env, arrays, i, &element) != napi_ok || !readArray(env, element, &data))
      return "a buffer is not a typed array";
    call.words[i] = reinterpret_cast<uintptr_t>(data);
  }
  void* data;
  size_t bytes;
  if (!readArray(env, values, &data, &bytes) || bytes > 8 * kMaxParams) return "params is not a Float64Array";
  const double* params = static_cast<const double*>(data);
  // The signature says which parameters are integers: "... int m; float eps;" after the buffers.
  const char* at = level.kernels[index].signature;
  for (uint32_t i = 0; i <= buffers; i++) at = std::strchr(at, i == 0 ? ':' : ';') + 1;
  for (size_t i = 0; i < bytes / 8; i++) {
    if (std::strncmp(at, " int ", 5) == 0) {
      const int64_t whole = int64_t(params[i]);
      std::memcpy(&call.words[buffers + i], &whole, 8);
    } else {
      std::memcpy(&call.words[buffers + i], &params[i], 8);
    }
    at = std::strchr(at, ';') + 1;
  }
  call.run = level.kernels[index].run;
  return nullptr;
}

napi_value run(napi_env env, napi_callback_info info) {
  size_t argc = 4;
  napi_value argv[4];
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  Opened opened;
  if (argc != 4 || !readHandle(env, argv[0], opened)) return fail(env, "run(handle, index, buffers, params)");
  Call call;
  if (const char* problem = readCall(env, *opened.level, argv[1], argv[2], argv[3], call)) return fail(env, problem);
  FlushDenormals mode;
  useThreads(opened.threads);
  call.run(call.words);
  return nullptr;
}

/** The steps of a captured program, in order. */
struct Program {
  int32_t threads;
  std::vector<Call> calls;
};

napi_value named(napi_env env, napi_value object, const char* name) {
  napi_value value;
  napi_get_named_property(env, object, name, &value);
  return value;
}

/** Fills `call` from one step; null, or what is wrong. */
const char* readStep(napi_env env, const Level& level, napi_value step, Call& call) {
  bool copies;
  if (napi_has_named_property(env, step, "from", &copies) != napi_ok) return "a step is not an object";
  if (!copies)
    return readCall(env, level, named(env, step, "index"), named(env, step, "buffers"), named(env, step, "params"), call);
  void *to, *from;
  size_t toBytes, fromBytes;
  if (!readArray(env, named(env, step, "to"), &to, &toBytes) ||
      !readArray(env, named(env, step, "from"), &from, &fromBytes) || toBytes != fromBytes)
    return "a copy needs two typed arrays of the same length";
  call = {nullptr, {reinterpret_cast<uintptr_t>(to), reinterpret_cast<uintptr_t>(from), toBytes}};
  return nullptr;
}

napi_value program(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2];
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  Opened opened;
  uint32_t count;
  if (argc != 2 || !readHandle(env, argv[0], opened) || napi_get_array_length(env, argv[1], &count) != napi_ok)
    return fail(env, "program(handle, steps)");
  auto* steps = new Program{opened.threads, std::vector<Call>(count)};
  for (uint32_t i = 0; i < count; i++) {
    napi_value step;
    napi_get_element(env, argv[1], i, &step);
    if (const char* problem = readStep(env, *opened.level, step, steps->calls[i])) {
      delete steps;
      return fail(env, problem);
    }
  }
  napi_value result;
  const auto release = [](napi_env, void* data, void*) { delete static_cast<Program*>(data); };
  if (napi_create_external(env, steps, release, nullptr, &result) != napi_ok) {
    delete steps;
    return fail(env, "the program could not be kept");
  }
  return result;
}

napi_value replay(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  void* data;
  if (argc != 1 || napi_get_value_external(env, argv[0], &data) != napi_ok) return fail(env, "replay(program)");
  const Program& steps = *static_cast<Program*>(data);
  FlushDenormals mode;
  useThreads(steps.threads);
  for (const Call& call : steps.calls) {
    const auto& words = call.words;
    if (call.run) call.run(words);
    else std::memcpy(reinterpret_cast<void*>(words[0]), reinterpret_cast<const void*>(words[1]), words[2]);
  }
  return nullptr;
}

struct Block {
  void* memory;
  size_t bytes;
  bool mapped;  // by mmap, else by malloc
};

void release(napi_env, void*, void* hint) {
  Block* block = static_cast<Block*>(hint);
#if defined(__linux__) || defined(__APPLE__)
  if (block->mapped) munmap(block->memory, block->bytes);
  else std::free(block->memory);
#else
  std::free(block->memory);
#endif
  delete block;
}

/**
 * An ArrayBuffer over the block, which goes with it; null if this runtime takes no memory from outside. Node's limit for
 * one is 4 GiB: its creation then fails after it has released the block itself.
 */
napi_value external(napi_env env, Block* block, size_t bytes) {
  napi_value result;
  const napi_status status = napi_create_external_arraybuffer(env, block->memory, bytes, release, block, &result);
  if (status == napi_ok) return result;
  if (status == napi_no_external_buffers_allowed) release(env, nullptr, block);
  else fail(env, "memory from outside was not taken");
  return nullptr;
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
  constexpr bool kMapped = true;
  // Small blocks are filled with pages at once, since a fault for each page costs more than the page; large ones get
  // huge pages when they are touched.
  const bool large = bytes >= (size_t(4) << 20);
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (large ? 0 : MAP_POPULATE);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (memory == MAP_FAILED) return fail(env, "out of memory");
  if (large) madvise(memory, bytes, MADV_HUGEPAGE);
#else
  constexpr bool kMapped = false;
  void* memory = std::aligned_alloc(4096, bytes);
  if (!memory) return fail(env, "out of memory");
  std::memset(memory, 0, bytes);
#endif
  if (napi_value result = external(env, new Block{memory, bytes, kMapped}, size_t(requested))) return result;
  bool refused;
  napi_is_exception_pending(env, &refused);
  if (refused) return nullptr;
  // Electron-like runtimes refuse external memory; JavaScript's own then has to do.
  napi_value result;
  void* unused;
  if (napi_create_arraybuffer(env, size_t(requested), &unused, &result) != napi_ok) return fail(env, "out of memory");
  return result;
}

/**
 * Part of a file as memory that the system reads when it is touched; changes to the memory stay in this process. The
 * offset must be a multiple of 65536, a multiple of every page size.
 */
napi_value map(napi_env env, napi_callback_info info) {
#if defined(__linux__) || defined(__APPLE__)
  size_t argc = 3;
  napi_value argv[3];
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  char path[4096];
  size_t length;
  double offset, bytes;
  if (argc != 3 || napi_get_value_string_utf8(env, argv[0], path, sizeof path, &length) != napi_ok ||
      length + 1 == sizeof path || napi_get_value_double(env, argv[1], &offset) != napi_ok ||
      napi_get_value_double(env, argv[2], &bytes) != napi_ok || !(offset >= 0) || !(bytes > 0))
    return fail(env, "map(path, offset, bytes)");
  const int file = ::open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return fail(env, "the file cannot be opened");
  struct stat status;
  void* memory = MAP_FAILED;
  // Memory beyond the end of the file would be a bus error when it is touched.
  const bool fits = fstat(file, &status) == 0 && offset + bytes <= double(status.st_size);
  if (fits) memory = mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, off_t(offset));
  ::close(file);
  if (memory == MAP_FAILED) return fail(env, fits ? "the file cannot be mapped" : "the file became shorter");
  return external(env, new Block{memory, size_t(bytes), true}, size_t(bytes));
#else
  return fail(env, "files cannot be mapped on this system");
#endif
}

napi_value init(napi_env env, napi_value exports) {
  const napi_property_descriptor properties[] = {
      {"levels", nullptr, levels, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"problems", nullptr, problems, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"open", nullptr, open, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"run", nullptr, run, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"program", nullptr, program, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"replay", nullptr, replay, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"map", nullptr, map, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"allocate", nullptr, allocate, nullptr, nullptr, nullptr, napi_default, nullptr},
  };
  napi_define_properties(env, exports, sizeof(properties) / sizeof(properties[0]), properties);
  return exports;
}

}  // namespace
}  // namespace mone

NAPI_MODULE(mone, mone::init)

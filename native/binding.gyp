{
  "targets": [{
    "target_name": "mone",
    "sources": [
      "addon.cc", "cpu.cc", "levels.cc", "parallel.cc",
      "level_portable.cc", "level_avx2.cc", "level_avx512.cc", "level_avx512bf16.cc", "level_amx.cc",
      "level_amx_emulated.cc"
    ],
    "cflags_cc": ["-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wall", "-Wno-psabi"],
    "cflags!": ["-O2"],
    "cflags_cc!": ["-fno-rtti", "-std=gnu++17", "-std=gnu++20"],
    "xcode_settings": {
      "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
      "GCC_OPTIMIZATION_LEVEL": "3",
      "OTHER_CPLUSPLUSFLAGS": ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
    }
  }]
}

# The project's three kinds of target, so that a folder's CMakeLists.txt is a list of names.

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  # The sloppiness that ccache asks for before it caches compilations with a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE_PROGRAM})
endif()

# What computes asks for -O3 itself (common/kernels, common/sampling); elsewhere it costs build time and buys nothing.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")

add_library(tandem_flags INTERFACE)
target_include_directories(tandem_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(tandem_flags INTERFACE -Wall -Wextra -Werror -fstack-protector-strong)
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  target_compile_options(tandem_flags INTERFACE -fcf-protection -fstack-clash-protection)
endif()
target_compile_definitions(tandem_flags INTERFACE _GLIBCXX_ASSERTIONS TANDEM_VERSION="${PROJECT_VERSION}")
target_link_options(tandem_flags INTERFACE -pie -Wl,-z,relro,-z,now)
if(TANDEM_SANITIZE)
  # -O1: at -O2 the instrumented vector kernels take minutes a file to compile.
  target_compile_options(tandem_flags INTERFACE -fsanitize=${TANDEM_SANITIZE} -fno-omit-frame-pointer
                         -fno-sanitize-recover=all -O1 -g1)
  target_link_options(tandem_flags INTERFACE -fsanitize=${TANDEM_SANITIZE})
  if(TANDEM_FUZZ)
    target_compile_options(tandem_flags INTERFACE -fsanitize=fuzzer-no-link)  # the coverage that guides inputs
  endif()
elseif(CMAKE_BUILD_TYPE STREQUAL "Release")
  # GCC 12 answers to FORTIFY_SOURCE=3; undefine first, since distributions preset their own level.
  target_compile_options(tandem_flags INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3)
endif()

# tandem_library(NAME SOURCES a.cc ... [DEPS lib ...])  A static library; no sources makes it header-only.
function(tandem_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    target_link_libraries(${name} PUBLIC tandem_flags ${ARG_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE tandem_flags ${ARG_DEPS})
  endif()
endfunction()

# tandem_binary(NAME SOURCES main.cc [DEPS lib ...])  A program in build/<preset>/bin.
function(tandem_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE tandem_flags ${ARG_DEPS})
endfunction()

# tandem_test(NAME SOURCES a_test.cc ... [DEPS lib ...] [LABELS label ...] [TIMEOUT seconds] [ON_TARGETS])
# One GoogleTest program and one ctest entry. Label `core` = no gRPC, runs under the sanitizers too. ON_TARGETS: it computes
# on TANDEM_TARGET, and on x86 there is a second entry, NAME_avx2, for the oldest machines that are served in vectors.
function(tandem_test name)
  cmake_parse_arguments(ARG "ON_TARGETS" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT TANDEM_BUILD_TESTS)
    return()
  endif()
  add_executable(${name} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE tandem_flags ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE TANDEM_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  # Half of the build is tests; what they measure or repeat a million times is in the libraries.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
  if(ARG_ON_TARGETS)
    target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/support/kernel_target.cc)
    if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
      add_test(NAME ${name}_avx2 COMMAND ${name})
      set_tests_properties(${name}_avx2 PROPERTIES
        ENVIRONMENT TANDEM_TARGET=AVX2 LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
    endif()
  endif()
endfunction()

# tandem_device_test(NAME ...)  A tandem_test whose cases skip themselves where there is no CUDA device; ctest counts it
# among the tests that did not run.
function(tandem_device_test name)
  tandem_test(${name} ${ARGN})
  if(TANDEM_BUILD_TESTS)
    set_tests_properties(${name} PROPERTIES SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]" RESOURCE_LOCK cuda)
  endif()
endfunction()

# tandem_precompile(NAME <header> ...) or tandem_precompile(NAME REUSE_FROM other)  For targets whose time goes into
# parsing gRPC and protobuf. GCC needs -fpch-preprocess for ccache to see through the precompiled header.
function(tandem_precompile name)
  if(ARGV1 STREQUAL "REUSE_FROM")
    target_precompile_headers(${name} ${ARGN})
  else()
    target_precompile_headers(${name} PRIVATE ${ARGN})
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${name} PRIVATE -fpch-preprocess)
  endif()
endfunction()

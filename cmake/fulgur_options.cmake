# Build options shared by every target: language level, warnings, sanitizers, ccache.
option(FULGUR_WERROR "Treat warnings as errors" ON)
set(FULGUR_SANITIZE "" CACHE STRING "Sanitizers to build with: address;undefined or thread")
option(FULGUR_FUZZ "Build libFuzzer targets (clang only)" OFF)
option(FULGUR_CUDA "Build the CUDA backend" OFF)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
# Invariant checks (FULGUR_ASSERT) stay on in release, so NDEBUG only silences the libraries.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1 -DNDEBUG")
# For the sanitizers: stacks stay readable and the build takes half the time of -O2 -g.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1 -DNDEBUG")

find_program(FULGUR_CCACHE ccache)
if(FULGUR_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Precompiled headers are cached only when their defines and timestamps may be ignored.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      ${FULGUR_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${FULGUR_CCACHE})
endif()

# Interface target that carries the house flags; every fulgur target links it.
add_library(fulgur_options INTERFACE)
target_compile_options(fulgur_options INTERFACE -Wall -Wextra -Wconversion -Wno-sign-conversion
                       -Wnon-virtual-dtor -Woverloaded-virtual -fno-math-errno)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12's flow-based bounds warnings report std::string concatenation as out of bounds, depending on
  # the length of a literal (the checkout's path among them): a false alarm must not break a build.
  target_compile_options(fulgur_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess
                         -Wno-array-bounds -Wno-restrict -Wno-stringop-overflow -Wno-stringop-overread>)
endif()
# Bit-exactness (invariant I1): the compiler must neither fuse nor reorder float arithmetic.
target_compile_options(fulgur_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
if(FULGUR_WERROR)
  target_compile_options(fulgur_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
foreach(kind IN LISTS FULGUR_SANITIZE)
  # UBSan's null check trips over CAF's own headers.
  target_compile_options(fulgur_options INTERFACE -fsanitize=${kind} -fno-omit-frame-pointer)
  target_link_options(fulgur_options INTERFACE -fsanitize=${kind})
  if(kind STREQUAL "undefined")
    target_compile_options(fulgur_options INTERFACE -fno-sanitize=null,vptr -fno-sanitize-recover=undefined)
  endif()
endforeach()

# Enables CUDA when FULGUR_CUDA is on and a compiler exists; FULGUR_CUDA_FOUND says so. Without one
# everything but the GPU code builds.
set(FULGUR_CUDA_FOUND OFF)
if(FULGUR_CUDA)
  include(CheckLanguage)
  # Where NVIDIA's packages put it, which need not be in the path.
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(FULGUR_NVCC nvcc HINTS /usr/local/cuda/bin)
    if(FULGUR_NVCC)
      set(CMAKE_CUDA_COMPILER ${FULGUR_NVCC})
    endif()
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES 90a)
    enable_language(CUDA)
    # CMake 3.25 does not know that nvcc speaks C++20.
    if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_COMPILE_FEATURES cuda_std_20)
      list(APPEND CMAKE_CUDA_COMPILE_FEATURES cuda_std_20)
    endif()
    # CUDA 13 has no nvToolsExt any more; CMake 3.25, asked to behave as 3.25, deprecates a target of
    # that name without looking whether it is there.
    if(NOT TARGET CUDA::nvToolsExt)
      add_library(CUDA::nvToolsExt INTERFACE IMPORTED GLOBAL)
    endif()
    set(FULGUR_CUDA_FOUND ON)
  else()
    message(WARNING "FULGUR_CUDA is on, but there is no CUDA compiler: building without GPU code")
  endif()
endif()

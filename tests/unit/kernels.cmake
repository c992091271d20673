fulgur_test(kernels_test
  SOURCES kernels/attention_oracle_test.cpp kernels/bounds_test.cpp
          kernels/compute_pool_test.cpp
          kernels/elementwise_test.cpp kernels/experts_test.cpp kernels/graph_cache_test.cpp
          kernels/lightning_test.cpp
          kernels/matmul_test.cpp kernels/scalar_math_test.cpp kernels/softmax_test.cpp
  DEPENDS fulgur::kernels fulgur::graph_cache TIMEOUT 600)
# The CUDA backend against the reference, by the same tests: emulated, and on a GPU where there is one.
set(cuda_backend_tests kernels/elementwise_test.cpp kernels/experts_test.cpp
    kernels/lightning_test.cpp kernels/matmul_test.cpp kernels/softmax_test.cpp
    kernels/device_arithmetic_test.cpp kernels/draw_test.cpp kernels/rank_test.cpp)
fulgur_test(kernels_emulated_test SOURCES ${cuda_backend_tests} kernels/emulation_test.cpp
            DEPENDS fulgur::emulated_device)
if(FULGUR_CUDA_FOUND)
  fulgur_test(kernels_cuda_test
              SOURCES kernels/cuda_grouped_test.cpp kernels/cuda_overlap_test.cpp
                      kernels/cuda_reference_test.cpp kernels/shares_test.cpp
                      kernels/sm90_free_sums_test.cpp
              DEPENDS fulgur::kernels fulgur::kernels_cuda fulgur::fp8_backend)
  fulgur_test(kernels_device_test SOURCES ${cuda_backend_tests} kernels/sm90_backend_test.cpp
              kernels/sm90_graphs_test.cpp
              ../support/device_environment.cpp
              DEPENDS fulgur::real_device fulgur::fp8_backend LABELS gpu)
endif()

fulgur_test(kernels_test
  SOURCES kernels/attention_oracle_test.cpp kernels/bounds_test.cpp
          kernels/compute_pool_test.cpp
          kernels/elementwise_test.cpp kernels/experts_test.cpp kernels/lightning_test.cpp
          kernels/matmul_test.cpp kernels/scalar_math_test.cpp kernels/softmax_test.cpp
  DEPENDS fulgur::kernels TIMEOUT 600)
if(FULGUR_CUDA_FOUND)
  fulgur_test(kernels_cuda_test SOURCES kernels/cuda_reference_test.cpp
              DEPENDS fulgur::kernels fulgur::kernels_cuda)
endif()

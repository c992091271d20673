fulgur_test(scheduler_test SOURCES attention/scheduler_test.cpp DEPENDS fulgur::attention)
fulgur_test(sampler_test SOURCES attention/sampler_test.cpp DEPENDS fulgur::attention)
fulgur_test(expert_dispatch_test
  SOURCES attention/expert_dispatch_test.cpp attention/replica_choice_test.cpp
  DEPENDS fulgur::attention)
fulgur_test(evacuation_test
  SOURCES attention/evacuation_test.cpp attention/parked_snapshots_test.cpp
          attention/prefix_cache_test.cpp
  DEPENDS fulgur::attention)
fulgur_test(golden_test SOURCES attention/golden_test.cpp
            DEPENDS fulgur::local_mesh fulgur::direct_model fulgur::test_support TIMEOUT 300 LABELS golden)
fulgur_use_actor_pch(golden_test)
fulgur_test(fp8_accuracy_test SOURCES attention/fp8_accuracy_test.cpp
            DEPENDS fulgur::fp8_backend fulgur::kernels fulgur::direct_model fulgur::test_support
            TIMEOUT 300 LABELS golden)
fulgur_test(exactness_test SOURCES attention/checkpoint_dtypes_test.cpp attention/deadlines_test.cpp
                                   attention/exactness_test.cpp attention/migration_test.cpp
            DEPENDS fulgur::local_mesh fulgur::test_support TIMEOUT 900 LABELS exactness)
fulgur_use_actor_pch(exactness_test)
fulgur_test(sequence_trace_test SOURCES attention/sequence_trace_test.cpp
            DEPENDS fulgur::local_mesh fulgur::test_support TIMEOUT 300)
fulgur_use_actor_pch(sequence_trace_test)
# The same on the CUDA backend: emulated everywhere, on a GPU where there is one.
fulgur_test(emulated_exactness_test
            SOURCES attention/device_draws_test.cpp attention/device_exactness_test.cpp
                    attention/device_mesh_test.cpp attention/slice_model_test.cpp
                    expert/device_layer_test.cpp transport/fake_gpu.cpp
            DEPENDS fulgur::local_mesh fulgur::slice_model fulgur::direct_model fulgur::test_support fulgur::emulated_device
            LABELS exactness TIMEOUT 300)
fulgur_use_actor_pch(emulated_exactness_test)
# What becomes of a mesh whose GPU has too little memory.
fulgur_test(device_memory_test
            SOURCES attention/device_memory_test.cpp expert/declined_replica_test.cpp
            DEPENDS fulgur::local_mesh fulgur::orchestrator fulgur::test_support fulgur::emulated_device
            LABELS exactness TIMEOUT 300)
fulgur_use_actor_pch(device_memory_test)
if(FULGUR_CUDA_FOUND)
  fulgur_test(device_exactness_test
              SOURCES attention/device_draws_test.cpp attention/device_exactness_test.cpp
                      attention/device_mesh_test.cpp attention/slice_model_test.cpp
                      expert/device_layer_test.cpp transport/fake_gpu.cpp
                      ../support/device_environment.cpp
              DEPENDS fulgur::local_mesh fulgur::slice_model fulgur::direct_model fulgur::test_support fulgur::real_device
              LABELS gpu TIMEOUT 300)
endif()

fulgur_test(orchestrator_test
  SOURCES orchestrator/placement_test.cpp orchestrator/placement_load_test.cpp
          orchestrator/membership_test.cpp
          orchestrator/coordinator_test.cpp orchestrator/load_history_test.cpp
          orchestrator/drain_test.cpp orchestrator/scaling_signal_test.cpp
          orchestrator/worker_view_test.cpp orchestrator/elastic_test.cpp
          orchestrator/repeat_test.cpp
  DEPENDS fulgur::orchestrator)
target_include_directories(orchestrator_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
fulgur_test(orchestrator_actor_test
  SOURCES orchestrator/orchestrator_actor_test.cpp orchestrator/admin_api_test.cpp
  DEPENDS fulgur::orchestrator fulgur::transport)
fulgur_use_actor_pch(orchestrator_actor_test)
fulgur_test(placement_quality_test
  SOURCES orchestrator/placement_quality_test.cpp
  DEPENDS fulgur::bench_placement fulgur::orchestrator)

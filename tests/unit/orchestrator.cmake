fulgur_test(orchestrator_test
  SOURCES orchestrator/placement_test.cpp orchestrator/placement_load_test.cpp
          orchestrator/membership_test.cpp
          orchestrator/coordinator_test.cpp orchestrator/load_history_test.cpp
          orchestrator/drain_test.cpp orchestrator/scaling_signal_test.cpp
          orchestrator/worker_view_test.cpp orchestrator/elastic_test.cpp
          orchestrator/repeat_test.cpp orchestrator/event_log_test.cpp
          orchestrator/event_feed_test.cpp
  DEPENDS fulgur::orchestrator nlohmann_json::nlohmann_json)
target_include_directories(orchestrator_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
fulgur_test(orchestrator_actor_test
  SOURCES orchestrator/orchestrator_actor_test.cpp orchestrator/admin_api_test.cpp
  DEPENDS fulgur::orchestrator fulgur::transport)
fulgur_use_actor_pch(orchestrator_actor_test)
fulgur_test(ops_page_test
  SOURCES orchestrator/ops_page_test.cpp http/raw_client.cpp
  DEPENDS fulgur::orchestrator fulgur::transport nlohmann_json::nlohmann_json)
target_include_directories(ops_page_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
fulgur_use_actor_pch(ops_page_test)
fulgur_test(placement_quality_test
  SOURCES orchestrator/placement_quality_test.cpp
  DEPENDS fulgur::bench_placement fulgur::orchestrator)

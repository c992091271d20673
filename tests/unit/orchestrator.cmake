fulgur_test(orchestrator_test
  SOURCES orchestrator/placement_test.cpp orchestrator/membership_test.cpp
          orchestrator/coordinator_test.cpp
  DEPENDS fulgur::orchestrator)
target_include_directories(orchestrator_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})

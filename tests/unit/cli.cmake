fulgur_test(cli_test
  SOURCES cli/options_test.cpp cli/mesh_plan_test.cpp cli/run_dir_test.cpp cli/status_view_test.cpp
          cli/supervision_test.cpp cli/scale_test.cpp
  DEPENDS fulgur::cli)

fulgur_test(planner_test
  SOURCES cli/planner/memory_fit_test.cpp cli/planner/pipeline_test.cpp cli/planner/plan_test.cpp
          cli/planner/profile_test.cpp cli/planner/working_memory_test.cpp
  DEPENDS fulgur::planner nlohmann_json::nlohmann_json)
add_dependencies(planner_test fulgur)

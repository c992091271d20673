fulgur_test(cli_test
  SOURCES cli/options_test.cpp cli/mesh_plan_test.cpp cli/run_dir_test.cpp cli/status_view_test.cpp
          cli/supervision_test.cpp cli/scale_test.cpp
  DEPENDS fulgur::cli)

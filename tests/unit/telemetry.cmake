fulgur_test(telemetry_test
  SOURCES telemetry/hot_path_test.cpp telemetry/metrics_test.cpp telemetry/otlp_tracer_test.cpp telemetry/tracing_test.cpp
  DEPENDS fulgur::telemetry nlohmann_json::nlohmann_json)

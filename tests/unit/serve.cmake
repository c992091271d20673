fulgur_test(serve_test
  SOURCES serve/latency_test.cpp serve/token_stream_test.cpp serve/workload_test.cpp
  DEPENDS fulgur::bench_serve nlohmann_json::nlohmann_json)

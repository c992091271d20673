fulgur_test(router_test
  SOURCES http/raw_client.cpp router/admission_test.cpp router/choice_test.cpp
          router/fake_mesh.cpp router/mutated_request_test.cpp
          router/openai_request_test.cpp router/openai_response_test.cpp
          router/service_errors_test.cpp router/service_failover_test.cpp router/service_test.cpp
          router/request_trace_test.cpp router/shard_picker_test.cpp router/stop_scanner_test.cpp
  DEPENDS fulgur::router)

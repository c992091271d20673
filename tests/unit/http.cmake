fulgur_test(http_test
  SOURCES http/client_test.cpp http/mutated_test.cpp http/raw_client.cpp http/server_test.cpp
          http/stream_test.cpp http/routes_test.cpp
  DEPENDS fulgur::http)

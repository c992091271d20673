fulgur_test(http_test
  SOURCES http/raw_client.cpp http/server_test.cpp http/stream_test.cpp http/routes_test.cpp
  DEPENDS fulgur::http)

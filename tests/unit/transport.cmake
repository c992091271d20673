fulgur_test(transport_test
  SOURCES transport/conformance_test.cpp
  DEPENDS fulgur::transport fulgur::wire)

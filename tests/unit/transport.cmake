fulgur_test(transport_test
  SOURCES transport/conformance_test.cpp transport/curve_test.cpp transport/hostile_test.cpp transport/inproc_test.cpp
          transport/packed_test.cpp transport/process_test.cpp transport/ring_test.cpp
  DEPENDS fulgur::transport fulgur::wire cppzmq)
fulgur_test(device_transport_test
  SOURCES transport/device_handshake_test.cpp transport/device_property_test.cpp
          transport/device_window_test.cpp transport/fake_gpu.cpp
          transport/fd_port_test.cpp
  DEPENDS fulgur::transport)

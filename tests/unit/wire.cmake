fulgur_test(wire_test SOURCES wire/codec_test.cpp wire/device_frame_test.cpp wire/direct_test.cpp
          wire/malformed_test.cpp DEPENDS fulgur::wire)

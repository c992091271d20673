fulgur_test(base_test SOURCES base/base_test.cpp base/e4m3_test.cpp DEPENDS fulgur::base)

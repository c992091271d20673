fulgur_test(base_test SOURCES base/base_test.cpp DEPENDS fulgur::base)

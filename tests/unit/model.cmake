fulgur_test(model_checkpoint_test SOURCES model/checkpoint_test.cpp
            DEPENDS fulgur::model fulgur::test_support)
